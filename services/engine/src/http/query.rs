//! Query strings and Docker's `filters` parameter.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::error::{Error, Result};

/// The parameters of a request, decoded; of repeated ones all values are kept.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes what stands after the `?`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key), decode(value))
            })
            .collect();
        Self(pairs)
    }

    /// The first value of `key`, also when it is empty.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of `key` unless it is empty.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.value(key).filter(|value| !value.is_empty())
    }

    /// All values of `key`.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's idea of truth: everything but an empty value, `0`, `no`, `false` and `none`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    /// As [`Query::flag`], with `default` when the parameter is absent.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(value) => {
                let value = value.trim().to_ascii_lowercase();
                !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// The number in `key`, if it is given.
    ///
    /// # Errors
    /// 400 when it isn't a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>> {
        self.text(key)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| Error::invalid(format!("{key}: {value} is not a number")))
            })
            .transpose()
    }

    /// The `filters` parameter.
    ///
    /// # Errors
    /// 400 when it isn't what Docker sends.
    pub(crate) fn filters(&self) -> Result<Filters> {
        self.text("filters")
            .map_or_else(|| Ok(Filters::default()), Filters::parse)
    }
}

/// Filters: key → accepted values.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    /// Reads `{"key":{"value":true}}` and the older `{"key":["value"]}`.
    ///
    /// # Errors
    /// 400 when it is neither.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let map: BTreeMap<String, FilterValues> = serde_json::from_str(text)
            .map_err(|_| Error::invalid(format!("invalid filters: {text}")))?;
        let map = map
            .into_iter()
            .map(|(key, values)| {
                let values = match values {
                    FilterValues::Map(map) => map
                        .into_iter()
                        .filter(|(_, on)| *on)
                        .map(|(value, _)| value)
                        .collect(),
                    FilterValues::List(list) => list,
                };
                (key, values)
            })
            .collect();
        Ok(Self(map))
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, key: &str, value: &str) {
        self.0
            .entry(key.to_owned())
            .or_default()
            .push(value.to_owned());
    }

    /// Refuses keys that aren't in `known`.
    ///
    /// # Errors
    /// 400 in dockerd's words.
    pub(crate) fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The values of `key`, none when the filter isn't given.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether `key` isn't given or one of its values satisfies `accepts`.
    pub(crate) fn any(&self, key: &str, accepts: impl Fn(&str) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|value| accepts(value))
    }

    /// Whether `value` is exactly one of the values of `key`, or `key` isn't given.
    pub(crate) fn exact(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| wanted == value)
    }

    /// Whether `labels` have all of the labels in `key`: `name` or `name=value`.
    pub(crate) fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key)
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            })
    }

    /// The one boolean in `key`, if it is given.
    ///
    /// # Errors
    /// 400 when it isn't a boolean.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.values(key) {
            [] => Ok(None),
            [value] if value == "true" || value == "1" => Ok(Some(true)),
            [value] if value == "false" || value == "0" => Ok(Some(false)),
            values => Err(Error::invalid(format!(
                "invalid filter '{key}={}'",
                values.join(",")
            ))),
        }
    }
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("a=1&b=x%2Fy+z&c&a=2&%zz=%");
        assert_eq!(query.value("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.text("b"), Some("x/y z"));
        assert_eq!(query.value("c"), Some(""));
        assert_eq!(query.text("c"), None);
        assert_eq!(query.value("%zz"), Some("%"));
    }

    #[test]
    fn truth_is_dockers() {
        let query = Query::parse("a=1&b=True&c=0&d=none&e=");
        assert!(query.flag("a") && query.flag("b"));
        assert!(!query.flag("c") && !query.flag("d") && !query.flag("e") && !query.flag("f"));
        assert!(query.flag_or("f", true));
    }

    #[test]
    fn filters_of_both_forms() {
        let filters = Filters::parse(r#"{"status":{"running":true,"dead":false},"name":["a"]}"#);
        let filters = filters.unwrap();
        assert_eq!(filters.values("status"), ["running"]);
        assert!(filters.exact("name", "a") && !filters.exact("name", "b"));
        assert!(filters.exact("other", "x"));
        assert_eq!(
            filters.only(&["name"]).unwrap_err().to_string(),
            "invalid filter 'status'"
        );
        for bad in ["", "[]", "{\"a\":1}", "x", "{\"a\":{\"b\":2}}"] {
            assert!(Filters::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_filters_need_all() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let filters = |text: &str| Filters::parse(text).unwrap();
        assert!(filters(r#"{"label":["a"]}"#).labels("label", &labels));
        assert!(filters(r#"{"label":["a=1"]}"#).labels("label", &labels));
        assert!(!filters(r#"{"label":["a=1","b"]}"#).labels("label", &labels));
        assert!(filters("{}").labels("label", &labels));
    }
}
