//! The image store's errors, as answers.

use atoll_image::ImageError;

use crate::error::{Error, ErrorKind};

/// Gives an image error its status and keeps its hint.
#[expect(clippy::needless_pass_by_value, reason = "for use with map_err")]
pub(crate) fn convert(error: ImageError) -> Error {
    let kind = if error.is_not_found() {
        ErrorKind::NotFound
    } else if error.is_conflict() {
        ErrorKind::Conflict
    } else if error.is_bad_request() {
        ErrorKind::InvalidParameter
    } else {
        ErrorKind::Internal
    };
    let hint = error.hint();
    Error::caused(kind, "", &error).with_hint(hint)
}
