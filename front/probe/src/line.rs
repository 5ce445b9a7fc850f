//! A JSON object in one line. By hand: a serializer would be most of this program.

/// Fields so far.
#[derive(Debug, Default)]
pub(crate) struct Line(String);

impl Line {
    /// No fields.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a number; one that is not finite becomes `null`.
    pub(crate) fn number(self, name: &str, value: f64) -> Self {
        if value.is_finite() {
            self.field(name, &value.to_string())
        } else {
            self.field(name, "null")
        }
    }

    /// Adds a text.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        let mut quoted = String::from("\"");
        for character in value.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                control if u32::from(control) < 0x20 => {
                    quoted.push_str(&format!("\\u{:04x}", u32::from(control)));
                }
                plain => quoted.push(plain),
            }
        }
        quoted.push('"');
        self.field(name, &quoted)
    }

    /// The object and a line feed.
    pub(crate) fn finished(&self) -> String {
        format!("{{{}}}\n", self.0)
    }

    fn field(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_forbids_is_escaped() {
        let line = Line::new()
            .text("a", "x\"y\\z\n")
            .number("b", 1.5)
            .number("c", f64::NAN);
        assert_eq!(
            line.finished(),
            "{\"a\":\"x\\\"y\\\\z\\u000a\",\"b\":1.5,\"c\":null}\n"
        );
        assert_eq!(Line::new().finished(), "{}\n");
    }
}
