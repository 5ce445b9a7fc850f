//! Container names: what is allowed, and the random ones.

/// Longest accepted name, in bytes.
const MAX_LEN: usize = 255;

const ADJECTIVES: &[&str] = &[
    "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "clear", "coral", "cosmic", "crisp", "dapper", "deft", "eager", "early", "easy", "fair",
    "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "honest",
    "humble", "ideal", "jolly", "keen", "kind", "lively", "lucid", "lunar", "lush", "mellow",
    "merry", "mild", "modest", "neat", "nimble", "noble", "pearly", "placid", "polar", "proud",
    "quick", "quiet", "rapid", "ready", "rosy", "sandy", "serene", "sharp", "shiny", "silent",
    "silver", "sleek", "smart", "snug", "solar", "solid", "steady", "still", "sunny", "swift",
    "tidal", "tidy", "tranquil", "trusty", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
];

const NOUNS: &[&str] = &[
    "albatross",
    "anchor",
    "anemone",
    "bay",
    "beach",
    "breaker",
    "breeze",
    "buoy",
    "canoe",
    "cape",
    "clam",
    "cockle",
    "compass",
    "conch",
    "coral",
    "cove",
    "crab",
    "current",
    "delta",
    "dolphin",
    "dune",
    "eddy",
    "fjord",
    "foam",
    "gannet",
    "grotto",
    "gull",
    "harbor",
    "heron",
    "inlet",
    "island",
    "jetty",
    "kayak",
    "kelp",
    "lagoon",
    "lantern",
    "limpet",
    "lobster",
    "manta",
    "marlin",
    "mast",
    "mussel",
    "narwhal",
    "nautilus",
    "ocean",
    "octopus",
    "orca",
    "osprey",
    "otter",
    "oyster",
    "palm",
    "pebble",
    "pelican",
    "petrel",
    "pier",
    "plankton",
    "porpoise",
    "puffin",
    "raft",
    "reef",
    "sail",
    "sandbar",
    "scallop",
    "seal",
    "shell",
    "shoal",
    "shore",
    "skiff",
    "spray",
    "sponge",
    "squid",
    "starfish",
    "strait",
    "surf",
    "tern",
    "tide",
    "trawler",
    "turtle",
    "urchin",
    "voyage",
    "walrus",
    "wave",
    "whale",
    "wharf",
];

/// Whether `name` (without the slash in front) may name a container: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    (2..=MAX_LEN).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// A name nobody has, as `is_taken` says: `adjective_noun`, with digits after it when luck fails.
pub(crate) fn random(is_taken: impl Fn(&str) -> bool) -> String {
    for attempt in 0.. {
        let number = random_u32();
        let adjective = pick(ADJECTIVES, number & 0xffff);
        let noun = pick(NOUNS, number >> 16);
        let name = match attempt {
            0..6 => format!("{adjective}_{noun}"),
            _ => format!("{adjective}_{noun}{}", random_u32() % 100_000),
        };
        if !is_taken(&name) {
            return name;
        }
    }
    unreachable!("the loop has no end")
}

/// A fresh 64-digit hexadecimal id whose short form isn't all digits, so that it can be a hostname.
pub(crate) fn random_id() -> String {
    loop {
        let mut bytes = [0_u8; 32];
        fill(&mut bytes);
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if id[..12].bytes().any(|digit| !digit.is_ascii_digit()) {
            return id;
        }
    }
}

fn pick(words: &[&'static str], number: u32) -> &'static str {
    words[number as usize % words.len()]
}

fn random_u32() -> u32 {
    let mut bytes = [0_u8; 4];
    fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random source is always there");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "a.b-c_d", "0x", "Web1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", "_x", "a b", "a/b", "ä1", ".x"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn random_names_are_valid_and_avoid_taken_ones() {
        let calls = std::cell::Cell::new(0);
        let name = random(|_| {
            calls.set(calls.get() + 1);
            calls.get() < 10
        });
        assert!(
            is_valid(&name) && name.ends_with(|c: char| c.is_ascii_digit()),
            "{name}"
        );
        assert!(random(|_| false).contains('_'));
    }

    #[test]
    fn ids_are_64_hex_digits() {
        let id = random_id();
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(id, random_id());
    }
}
