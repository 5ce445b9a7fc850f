//! `--format` texts: fields of a JSON object between other text.
//!
//! The part of Go's templates people use: `{{.Name}}`, `{{.State.Status}}`, `{{json .Config}}`,
//! `\t` and `\n`.

use serde_json::Value;

use crate::error::Error;

/// A parsed text.
#[derive(Debug)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
    source: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { path: Vec<String>, is_json: bool },
}

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// [`Error::Value`] for anything between braces that is no field.
    pub(crate) fn parse(source: &str) -> Result<Self, Error> {
        let mut pieces = Vec::new();
        let unescaped = source.replace("\\t", "\t").replace("\\n", "\n");
        let mut rest = unescaped.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| invalid(source, "a }} is missing"))?;
            pieces.push(parse_action(action.trim()).ok_or_else(|| {
                invalid(source, "known are fields like {{.Name}} and {{json .Name}}")
            })?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self {
            pieces,
            source: source.to_owned(),
        })
    }

    /// Fills the fields of `object` in.
    ///
    /// # Errors
    /// [`Error::Value`] when the object has no such field.
    pub(crate) fn render(&self, object: &Value) -> Result<String, Error> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Field { path, is_json } => {
                    let value = look_up(object, path).ok_or_else(|| {
                        invalid(
                            &self.source,
                            &format!("there is no field .{}", path.join(".")),
                        )
                    })?;
                    match value {
                        Value::String(plain) if !is_json => text.push_str(plain),
                        value => text.push_str(&value.to_string()),
                    }
                }
            }
        }
        Ok(text)
    }

    /// Fills `heading(last part of the field)` in for each field.
    pub(crate) fn headings(&self, heading: impl Fn(&str) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field { path, .. } => heading(path.last().map_or("", String::as_str)),
        };
        self.pieces.iter().map(piece).collect()
    }
}

fn parse_action(action: &str) -> Option<Piece> {
    let (is_json, field) = match action.strip_prefix("json ") {
        Some(field) => (true, field.trim()),
        None => (false, action),
    };
    let names = field.strip_prefix('.')?;
    let path: Vec<String> = match names {
        "" => Vec::new(),
        names => names.split('.').map(str::to_owned).collect(),
    };
    let is_name =
        |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    path.iter()
        .all(is_name)
        .then_some(Piece::Field { path, is_json })
}

fn look_up<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

fn invalid(source: &str, expected: &str) -> Error {
    Error::value("--format", source, expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let object = json!({"ID": "x", "State": {"Running": true, "Code": 3}, "Args": ["a"]});
        Template::parse(source)?.render(&object)
    }

    #[test]
    fn fields_are_filled_in() {
        assert_eq!(render("{{.ID}}: {{ .State.Code }}\\t!").unwrap(), "x: 3\t!");
        assert_eq!(render("{{.State.Running}}").unwrap(), "true");
        assert_eq!(
            render("{{json .Args}} {{json .ID}}").unwrap(),
            "[\"a\"] \"x\""
        );
        assert_eq!(render("plain").unwrap(), "plain");
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for bad in [
            "{{.ID",
            "{{range .Args}}",
            "{{.Nothing}}",
            "{{.ID.x}}",
            "{{ID}}",
            "{{..}}",
        ] {
            assert!(render(bad).is_err(), "{bad}");
        }
    }
}
