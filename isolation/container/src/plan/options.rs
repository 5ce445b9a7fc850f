//! Mount options as of fstab(5) and the OCI specification.
//!
//! Spec: OCI runtime-spec 1.3, config.md#linux-mount-options.

use atoll_sys::mount::{Attributes, Propagation};

/// What a mount's options say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// Attributes to set on the mount.
    pub(crate) set: Attributes,
    /// Attributes to clear on the mount.
    pub(crate) clear: Attributes,
    /// Attributes to set on the mount and those below it.
    pub(crate) set_recursive: Attributes,
    /// Attributes to clear on the mount and those below it.
    pub(crate) clear_recursive: Attributes,
    /// Propagation, and whether of those below too; in order.
    pub(crate) propagation: Vec<(Propagation, bool)>,
    /// Whether it is a bind mount, and then whether of those below too.
    pub(crate) bind: Option<bool>,
    /// Whether what the image has there is copied into the new file system.
    pub(crate) copy_up: bool,
    /// Whether ids are shifted, and then whether of those below too.
    pub(crate) idmap: Option<bool>,
    /// Settings of the superblock.
    pub(crate) settings: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads the words in order; later ones win.
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for word in words {
            options.take(word);
        }
        options
    }

    fn take(&mut self, word: &str) {
        match word {
            // What is there already, and what the kernel has no use for in a new mount.
            "" | "defaults" | "remount" | "norelatime" | "nostrictatime" | "silent" | "loud"
            | "iversion" | "noiversion" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            _ => {
                if let Some((attribute, sets)) = attribute(word) {
                    change(&mut self.set, &mut self.clear, attribute, sets);
                } else if let Some((attribute, sets)) = word.strip_prefix('r').and_then(attribute) {
                    let (set, clear) = (&mut self.set_recursive, &mut self.clear_recursive);
                    change(set, clear, attribute, sets);
                } else if let Some(propagation) = propagation(word) {
                    self.propagation.push((propagation, false));
                } else if let Some(propagation) = word.strip_prefix('r').and_then(propagation) {
                    self.propagation.push((propagation, true));
                } else {
                    let (key, value) = match word.split_once('=') {
                        Some((key, value)) => (key, Some(unquoted(key, value).to_owned())),
                        None => (word, None),
                    };
                    self.settings.push((key.to_owned(), value));
                }
            }
        }
    }
}

/// The value of a setting for fsconfig(2). Labels are quoted in options, as mount(2) needs it for those with commas.
pub(crate) fn unquoted<'a>(key: &str, value: &'a str) -> &'a str {
    let is_label = matches!(key, "context" | "fscontext" | "defcontext" | "rootcontext");
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.filter(|_| is_label).unwrap_or(value)
}

/// Every option this module gives a meaning, for `features`.
#[must_use]
pub fn known_mount_options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(word, ..)| *word);
    let plain = attributes.clone().map(str::to_owned);
    let recursive = attributes.map(|word| format!("r{word}"));
    let others = [
        // Of superblocks: the kernel takes these by name.
        "async",
        "dirsync",
        "lazytime",
        "mand",
        "nolazytime",
        "nomand",
        "sync",
        "iversion",
        "loud",
        "noiversion",
        "norelatime",
        "nostrictatime",
        "silent",
        "bind",
        "rbind",
        "defaults",
        "idmap",
        "ridmap",
        "private",
        "rprivate",
        "remount",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "tmpcopyup",
        "unbindable",
        "runbindable",
    ];
    let mut all: Vec<String> = plain.chain(recursive).collect();
    all.extend(others.map(str::to_owned));
    all.sort();
    all
}

/// Word, attribute, whether it is set (else cleared).
const ATTRIBUTES: &[(&str, Attributes, bool)] = &[
    ("ro", Attributes::RDONLY, true),
    ("rw", Attributes::RDONLY, false),
    ("nosuid", Attributes::NOSUID, true),
    ("suid", Attributes::NOSUID, false),
    ("nodev", Attributes::NODEV, true),
    ("dev", Attributes::NODEV, false),
    ("noexec", Attributes::NOEXEC, true),
    ("exec", Attributes::NOEXEC, false),
    ("noatime", Attributes::NOATIME, true),
    ("atime", Attributes::NOATIME, false),
    ("strictatime", Attributes::STRICTATIME, true),
    ("relatime", Attributes::ATIME_MASK, false),
    ("nodiratime", Attributes::NODIRATIME, true),
    ("diratime", Attributes::NODIRATIME, false),
    ("nosymfollow", Attributes::NOSYMFOLLOW, true),
    ("symfollow", Attributes::NOSYMFOLLOW, false),
];

fn attribute(word: &str) -> Option<(Attributes, bool)> {
    let row = ATTRIBUTES.iter().find(|(known, ..)| *known == word)?;
    Some((row.1, row.2))
}

fn propagation(word: &str) -> Option<Propagation> {
    match word {
        "shared" => Some(Propagation::Shared),
        "slave" => Some(Propagation::Slave),
        "private" => Some(Propagation::Private),
        "unbindable" => Some(Propagation::Unbindable),
        _ => None,
    }
}

fn change(set: &mut Attributes, clear: &mut Attributes, attribute: Attributes, sets: bool) {
    if attribute.intersects(Attributes::ATIME_MASK) {
        // The three access time settings are one field.
        set.remove(Attributes::ATIME_MASK);
    }
    if sets {
        set.insert(attribute);
        clear.remove(attribute);
    } else {
        set.remove(attribute);
        clear.insert(attribute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_into_their_kinds() {
        let options = Options::parse([
            "rbind",
            "rprivate",
            "ro",
            "nosuid",
            "rnodev",
            "size=64k",
            "newinstance",
        ]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.propagation, [(Propagation::Private, true)]);
        assert_eq!(options.set, Attributes::RDONLY | Attributes::NOSUID);
        assert_eq!(options.set_recursive, Attributes::NODEV);
        let size = ("size".to_owned(), Some("64k".to_owned()));
        assert_eq!(options.settings, [size, ("newinstance".to_owned(), None)]);
    }

    #[test]
    fn labels_lose_their_quotes_and_nothing_else_does() {
        assert_eq!(unquoted("context", "\"a:b:c:s0:c1,c2\""), "a:b:c:s0:c1,c2");
        assert_eq!(unquoted("rootcontext", "a:b:c"), "a:b:c");
        assert_eq!(unquoted("context", "\""), "\"");
        assert_eq!(unquoted("label", "\"a\""), "\"a\"");
    }

    #[test]
    fn words_without_effect_are_no_settings() {
        let options = Options::parse(["silent", "loud", "iversion", "remount", "lazytime"]);
        assert_eq!(options.settings, [("lazytime".to_owned(), None)]);
    }

    #[test]
    fn later_words_win() {
        let options = Options::parse(["ro", "rw", "noatime", "relatime"]);
        assert_eq!(options.set, Attributes::empty());
        assert!(options.clear.contains(Attributes::RDONLY));
        let options = Options::parse(["strictatime", "noatime"]);
        assert_eq!(options.set, Attributes::NOATIME);
    }
}
