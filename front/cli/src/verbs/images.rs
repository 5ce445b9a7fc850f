//! `images`, `pull`, `load`, `import`, `rmi`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use futures_util::future::join_all;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::arguments::{ImagesArgs, ImportArgs, LoadArgs, PullArgs, RmiArgs};
use crate::client::{self, Body, Client, Target};
use crate::error::{self, Error, Message};
use crate::pipes::{self, Stdin};
use crate::table::List;
use crate::{human, print, progress};

/// One image as the engine lists it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Summary {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: i64,
    size: u64,
}

const COLUMNS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];
const COLUMNS_WITH_DIGEST: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];
const NONE: &str = "<none>";

/// `atoll images`.
pub(super) async fn list(client: &Client, args: &ImagesArgs) -> Result<(), Error> {
    let mut filter = args.filter.clone();
    filter.extend(
        args.reference
            .iter()
            .map(|reference| format!("reference={reference}")),
    );
    let target = Target::new("/images/json")
        .with_flag("all", args.all)
        .with_some("filters", super::ps::filters(&filter)?);
    let images: Vec<Summary> = client.get("list images", &target).await?;
    let rows = images
        .iter()
        .flat_map(|image| rows(image, args.list.no_trunc))
        .collect();
    let columns = if args.digests {
        COLUMNS_WITH_DIGEST
    } else {
        COLUMNS
    };
    List { columns, rows }.print(&args.list)
}

/// One row per name; an image without one has one row too.
fn rows(image: &Summary, is_whole: bool) -> Vec<Map<String, Value>> {
    let digest_of = |repository: &str| {
        let digests = image
            .repo_digests
            .iter()
            .flatten()
            .filter_map(|text| text.split_once('@'));
        let mut matching = digests.filter(|(name, _)| *name == repository);
        matching
            .next()
            .map_or(NONE, |(_, digest)| digest)
            .to_owned()
    };
    let tags = image
        .repo_tags
        .iter()
        .flatten()
        .filter(|tag| *tag != "<none>:<none>");
    let mut names: Vec<(String, String)> = tags
        .filter_map(|tag| tag.rsplit_once(':'))
        .map(|(repository, tag)| (repository.to_owned(), tag.to_owned()))
        .collect();
    if names.is_empty() {
        let by_digest = image
            .repo_digests
            .iter()
            .flatten()
            .find_map(|text| text.split_once('@'));
        let repository = by_digest.map_or(NONE, |(name, _)| name);
        names.push((repository.to_owned(), NONE.to_owned()));
    }
    let id = if is_whole {
        image.id.clone()
    } else {
        human::short_id(&image.id)
    };
    let row = |(repository, tag): (String, String)| {
        let fields = json!({
            "ID": id,
            "Digest": digest_of(&repository),
            "Repository": repository,
            "Tag": tag,
            "CreatedAt": human::time(image.created),
            "CreatedSince": human::ago(image.created),
            "Size": human::size(image.size),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    };
    names.into_iter().map(row).collect()
}

/// `atoll pull`.
pub(super) async fn pull(client: &Client, args: &PullArgs) -> Result<(), Error> {
    fetch(client, &args.name, args.platform.as_deref(), args.quiet).await?;
    print::line(&args.name)
}

/// Fetches an image, showing progress.
pub(super) async fn fetch(
    client: &Client,
    name: &str,
    platform: Option<&str>,
    is_quiet: bool,
) -> Result<(), Error> {
    let (repository, tag) = split_name(name);
    let action = format!("pull image {name}");
    let target = Target::new("/images/create")
        .with("fromImage", repository)
        .with("tag", tag)
        .with_some("platform", platform);
    let answer = client
        .request(&action, Method::POST, &target, client::empty())
        .await?;
    progress::follow(&action, answer.into_body(), is_quiet, |_| Ok(())).await
}

/// Splits a name into repository and tag or digest, `latest` when it has neither.
fn split_name(name: &str) -> (&str, &str) {
    if let Some((repository, digest)) = name.split_once('@') {
        // A tag beside a digest says nothing more.
        let repository = match repository.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => before,
            _ => repository,
        };
        return (repository, digest);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

/// `atoll load`.
pub(super) async fn load(client: &Client, args: &LoadArgs) -> Result<(), Error> {
    let action = "load images";
    let body = archive(args.input.as_deref())?;
    let target = Target::new("/images/load").with_flag("quiet", args.quiet);
    let answer = client.request(action, Method::POST, &target, body).await?;
    progress::follow(
        action,
        answer.into_body(),
        args.quiet,
        |event| match &event.stream {
            Some(text) => print::text(text),
            None => Ok(()),
        },
    )
    .await
}

/// `atoll import`.
pub(super) async fn import(client: &Client, args: &ImportArgs) -> Result<(), Error> {
    let action = "import image";
    let body = archive((args.file != "-").then(|| Path::new(&args.file)))?;
    let mut target = Target::new("/images/create")
        .with("fromSrc", "-")
        .with_some("repo", args.reference.as_ref())
        .with_some("message", args.message.as_ref())
        .with_some("platform", args.platform.as_ref());
    for change in &args.change {
        target = target.with("changes", change);
    }
    let answer = client.request(action, Method::POST, &target, body).await?;
    // The last status is the image's id.
    let mut id = None;
    progress::follow(action, answer.into_body(), true, |event| {
        id = event.status().map(str::to_owned).or(id.take());
        Ok(())
    })
    .await?;
    let id = id.ok_or_else(|| Error::Answer {
        action: action.to_owned(),
        message: Message("it named no image".to_owned()),
    })?;
    print::line(id.trim())
}

/// A file, or our standard input, as a request's body.
fn archive(path: Option<&Path>) -> Result<Body, Error> {
    match path {
        Some(path) => {
            let file = File::open(path).map_err(Error::io(format!("read {}", path.display())))?;
            Ok(client::streamed(pipes::read(OwnedFd::from(file))?))
        }
        None if crate::terminal::is_input() => Err(Error::value(
            "input",
            "terminal",
            "expected an archive: name a file or redirect one to the standard input",
        )),
        None => Ok(client::streamed(pipes::read(Stdin)?)),
    }
}

/// `atoll rmi`.
pub(super) async fn rmi(client: &Client, args: &RmiArgs) -> Result<(), Error> {
    let remove = async |name: &String| {
        let target = Target::object("images", name, "")
            .with_flag("force", args.force)
            .with_flag("noprune", args.no_prune);
        client
            .delete(&format!("remove image {name}"), &target)
            .await
    };
    let mut is_whole = true;
    for outcome in join_all(args.names.iter().map(remove)).await {
        match outcome {
            Ok(items) => {
                for item in items
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object)
                {
                    for (what, name) in item {
                        print::line(&format!("{what}: {}", name.as_str().unwrap_or_default()))?;
                    }
                }
            }
            Err(failure) => {
                error::report(&failure);
                is_whole = false;
            }
        }
    }
    if is_whole {
        Ok(())
    } else {
        Err(Error::Partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_at_the_tag_not_at_the_port() {
        assert_eq!(split_name("bb"), ("bb", "latest"));
        assert_eq!(
            split_name("127.0.0.1:5000/bb"),
            ("127.0.0.1:5000/bb", "latest")
        );
        assert_eq!(
            split_name("127.0.0.1:5000/bb:1"),
            ("127.0.0.1:5000/bb", "1")
        );
        assert_eq!(split_name("bb:1@sha256:ab"), ("bb", "sha256:ab"));
    }

    #[test]
    fn an_image_has_a_row_per_name() {
        let image = Summary {
            id: "sha256:0123456789abcdef".to_owned(),
            repo_tags: Some(vec!["a:1".to_owned(), "localhost:5000/b:2".to_owned()]),
            repo_digests: Some(vec!["a@sha256:ff".to_owned()]),
            created: 0,
            size: 4_270_000,
        };
        let rows = rows(&image, false);
        assert_eq!(
            (&rows[0]["Repository"], &rows[0]["Digest"]),
            (&json!("a"), &json!("sha256:ff"))
        );
        assert_eq!(
            (&rows[1]["Tag"], &rows[1]["Digest"]),
            (&json!("2"), &json!("<none>"))
        );
        assert_eq!(rows[1]["Size"], "4.27MB");
        let unnamed = super::rows(&Summary::default(), false);
        assert_eq!(
            (unnamed.len(), &unnamed[0]["Repository"]),
            (1, &json!("<none>"))
        );
    }
}
