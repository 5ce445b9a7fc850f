//! What happens, told to whoever asks: a ring of the latest events and a broadcast to followers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::{http::query::Filters, time};

/// How many events are kept for `since`.
const KEPT: usize = 256;

/// Something that happened.
///
/// Docker Engine API v1.51 GET /events.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    /// Old clients' name of the action; containers and images only.
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nanos: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    attributes: BTreeMap<String, String>,
}

impl Event {
    /// Nanoseconds since 1970.
    pub(crate) fn time_nanos(&self) -> i64 {
        self.time_nanos
    }

    /// Whether `filters` let this event through.
    pub(crate) fn matches(&self, filters: &Filters) -> bool {
        let attribute = |name: &str| self.actor.attributes.get(name).map_or("", String::as_str);
        let names = |wanted: &str, kind: &str| {
            self.kind == kind
                && (self.actor.id == wanted
                    || attribute("name") == wanted
                    || (wanted.len() >= 12 && self.actor.id.starts_with(wanted)))
        };
        filters.exact("type", self.kind)
            && filters.any("event", |wanted| {
                wanted == self.action || self.action.split(':').next() == Some(wanted)
            })
            && filters.any("container", |wanted| names(wanted, "container"))
            && filters.any("network", |wanted| names(wanted, "network"))
            && filters.any("volume", |wanted| names(wanted, "volume"))
            && filters.any("image", |wanted| {
                names(wanted, "image") || attribute("image") == wanted
            })
            && filters.exact("scope", self.scope)
            && filters.labels("label", &self.actor.attributes)
    }
}

/// The event bus.
#[derive(Debug)]
pub(crate) struct EventBus {
    kept: Mutex<VecDeque<Event>>,
    followers: broadcast::Sender<Event>,
}

impl EventBus {
    /// A bus without history.
    pub(crate) fn new() -> Self {
        Self {
            kept: Mutex::new(VecDeque::new()),
            followers: broadcast::channel(KEPT).0,
        }
    }

    /// Publishes an event of `kind` (`container`, `image`, `network`, `volume`, `daemon`).
    pub(crate) fn publish(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let is_old = matches!(kind, "container" | "image");
        let time_nanos = time::now_nanos();
        let from = match kind {
            "container" => attributes.get("image").cloned().unwrap_or_default(),
            _ => String::new(),
        };
        let event = Event {
            status: if is_old {
                action.to_owned()
            } else {
                String::new()
            },
            id: if is_old { id.to_owned() } else { String::new() },
            from,
            kind,
            action: action.to_owned(),
            actor: Actor {
                id: id.to_owned(),
                attributes,
            },
            scope: "local",
            time: time_nanos / 1_000_000_000,
            time_nanos,
        };
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Without followers there is nobody to tell. Sent under the lock, so that
        // `follow` sees each event exactly once.
        let _ = self.followers.send(event);
    }

    /// The kept events, oldest first, and all that come after them.
    pub(crate) fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.lock();
        (kept.iter().cloned().collect(), self.followers.subscribe())
    }

    /// How many follow now.
    pub(crate) fn followers(&self) -> usize {
        self.followers.receiver_count()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_get_each_event_once() {
        let bus = EventBus::new();
        bus.publish("container", "create", "c1", BTreeMap::new());
        let (past, mut future) = bus.follow();
        bus.publish("container", "start", "c1", BTreeMap::new());
        assert_eq!(past.len(), 1);
        assert_eq!(future.try_recv().unwrap().action, "start");
        assert!(future.try_recv().is_err());
    }

    #[test]
    fn filters_select() {
        let bus = EventBus::new();
        let attributes = BTreeMap::from([
            ("name".to_owned(), "web".to_owned()),
            ("image".to_owned(), "bb".to_owned()),
        ]);
        bus.publish(
            "container",
            "exec_create: sh",
            "0123456789abcdef",
            attributes,
        );
        let event = &bus.follow().0[0];
        let matches = |text: &str| event.matches(&Filters::parse(text).unwrap());
        assert!(matches(
            r#"{"type":["container"],"container":["web"],"image":["bb"]}"#
        ));
        assert!(matches(r#"{"event":["exec_create"]}"#));
        assert!(matches(r#"{"container":["0123456789ab"]}"#));
        assert!(!matches(r#"{"container":["other"]}"#));
        assert!(!matches(r#"{"type":["image"]}"#));
        assert!(matches("{}"));
    }

    #[test]
    fn history_is_bounded() {
        let bus = EventBus::new();
        for _ in 0..KEPT + 10 {
            bus.publish("network", "create", "n", BTreeMap::new());
        }
        assert_eq!(bus.follow().0.len(), KEPT);
    }
}
