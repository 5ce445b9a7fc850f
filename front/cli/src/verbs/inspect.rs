//! `inspect`.

use serde_json::Value;

use crate::arguments::InspectArgs;
use crate::client::{Client, Target};
use crate::error::{self, Error};
use crate::print;
use crate::template::Template;

/// `atoll inspect`: containers first, then images, as `--type` allows.
pub(super) async fn inspect(client: &Client, args: &InspectArgs) -> Result<(), Error> {
    show(&args.names, args.format.as_deref(), async |name| {
        one(client, args, name).await
    })
    .await
}

/// Prints what `look` finds of each name, as `format` says; reports the rest.
pub(super) async fn show(
    names: &[String],
    format: Option<&str>,
    look: impl AsyncFn(&str) -> Result<Value, Error>,
) -> Result<(), Error> {
    let template = match format {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let mut found = Vec::new();
    let mut is_whole = true;
    for name in names {
        match look(name).await {
            Ok(details) => found.push(details),
            Err(error) => {
                error::report(&error);
                is_whole = false;
            }
        }
    }
    match template {
        Some(template) => {
            for details in &found {
                print::line(&template.render(details)?)?;
            }
        }
        None if format.is_some() => print::line(&Value::Array(found).to_string())?,
        None => print::line(&format!("{:#}", Value::Array(found)))?,
    }
    if is_whole {
        Ok(())
    } else {
        Err(Error::Partial)
    }
}

async fn one(client: &Client, args: &InspectArgs, name: &str) -> Result<Value, Error> {
    let action = format!("inspect {name}");
    let may_be = |kind: &str| args.kind.as_deref().is_none_or(|wanted| wanted == kind);
    let mut failure = None;
    if may_be("container") {
        let target = Target::object("containers", name, "json").with_flag("size", args.size);
        match client.get(&action, &target).await {
            Err(error) if error.status() == Some(404) => failure = Some(error),
            other => return other,
        }
    }
    if may_be("image") {
        match client
            .get(&action, &Target::object("images", name, "json"))
            .await
        {
            Err(error) if error.status() == Some(404) => failure = failure.or(Some(error)),
            other => return other,
        }
    }
    Err(failure.unwrap_or_else(|| Error::value("name", name, "there is nothing of this name")))
}
