//! Loading a configuration with errors that say where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Spec;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The file isn't JSON, or a field has the wrong type.
    #[error("{path}, line {line}, column {column}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A field has a value that can't be.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field, `process.cwd`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl SpecError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new(".")).display();
                Some(format!(
                    "name the bundle with --bundle, or make its config.json: cd {folder} && atoll-runtime spec"
                ))
            }
            Self::Syntax { .. } => Some(
                "correct the file there; `atoll-runtime spec` in an empty folder shows its form"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl Spec {
    /// Reads and checks the configuration at `path`.
    ///
    /// # Errors
    /// [`SpecError::Read`] when the file can't be read, [`SpecError::Syntax`] when it isn't a
    /// configuration, [`SpecError::Field`] when a value can't be.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let text = fs::read(path).map_err(|source| SpecError::Read {
            path: path.to_owned(),
            source,
        })?;
        let spec = Self::parse(&text, path)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Parses a configuration without checking its values; `path` is only named in errors.
    ///
    /// # Errors
    /// [`SpecError::Syntax`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, SpecError> {
        serde_json::from_slice(text).map_err(|error| syntax_error(path, &error))
    }
}

impl crate::Process {
    /// Reads a process from `path` (`exec --process`).
    ///
    /// # Errors
    /// As [`Spec::load`].
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let text = fs::read(path).map_err(|source| SpecError::Read {
            path: path.to_owned(),
            source,
        })?;
        let process: Self =
            serde_json::from_slice(&text).map_err(|error| syntax_error(path, &error))?;
        process.validate()?;
        Ok(process)
    }
}

/// serde_json's message carries its position at the end; it is kept as data instead.
fn syntax_error(path: &Path, error: &serde_json::Error) -> SpecError {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    SpecError::Syntax {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
        reason: text.strip_suffix(&position).unwrap_or(&text).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_name_file_line_and_column() {
        let text = b"{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": {\"cwd\": 7}\n}";
        let error = Spec::parse(text, Path::new("/b/config.json")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/b/config.json, line 3, column 22: invalid type: integer `7`, expected path string"
        );
        assert!(error.hint().unwrap().contains("correct the file"));
    }

    #[test]
    fn missing_file_hints_at_bundle() {
        let error = Spec::load(Path::new("/nonexistent/config.json")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/config.json");
        assert!(error.hint().unwrap().contains("--bundle"));
    }

    #[test]
    fn null_is_absent() {
        let text = br#"{"ociVersion":"1.0.2","mounts":null,"process":{"args":null,"user":null},"linux":{"namespaces":null,"resources":null}}"#;
        let spec = Spec::parse(text, Path::new("x")).unwrap();
        assert!(spec.mounts.is_empty());
        assert!(spec.linux.unwrap().namespaces.is_empty());
    }
}
