//! `volume create`, `ls`, `inspect`, `rm`, `prune`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::inspect::show;
use super::lifecycle::each;
use super::ps::filters;
use crate::arguments::volume::{CreateArgs, InspectArgs, LsArgs, PruneArgs, RmArgs, VolumeVerb};
use crate::client::{Client, Target};
use crate::error::Error;
use crate::table::List;
use crate::{human, print, values};

/// `atoll volume`.
pub(super) async fn volume(client: &Client, verb: &VolumeVerb) -> Result<(), Error> {
    match verb {
        VolumeVerb::Create(args) => create(client, args).await,
        VolumeVerb::Ls(args) => list(client, args).await,
        VolumeVerb::Inspect(args) => inspect(client, args).await,
        VolumeVerb::Rm(args) => remove(client, args).await,
        VolumeVerb::Prune(args) => prune(client, args).await,
    }
}

async fn create(client: &Client, args: &CreateArgs) -> Result<(), Error> {
    let body = json!({
        "Name": args.name,
        "Labels": values::pairs(&args.label),
        "DriverOpts": values::pairs(&args.opt),
    });
    let target = Target::new("/volumes/create");
    let made = client.post("create volume", &target, Some(&body)).await?;
    print::line(made["Name"].as_str().unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    volumes: Option<Vec<Value>>,
}

const COLUMNS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("CreatedSince", "CREATED"),
];

async fn list(client: &Client, args: &LsArgs) -> Result<(), Error> {
    let target = Target::new("/volumes").with_some("filters", filters(&args.filter)?);
    let listed: Listed = client.get("list volumes", &target).await?;
    let volumes = listed.volumes.unwrap_or_default();
    let rows = volumes.iter().map(row).collect();
    List {
        columns: COLUMNS,
        rows,
    }
    .print(&args.list)
}

fn row(volume: &Value) -> Map<String, Value> {
    let text = |name: &str| volume[name].as_str().unwrap_or_default().to_owned();
    let created = text("CreatedAt").parse::<jiff::Timestamp>();
    let fields = json!({
        "ID": text("Name"),
        "Name": text("Name"),
        "Driver": text("Driver"),
        "Scope": text("Scope"),
        "Mountpoint": text("Mountpoint"),
        "Labels": volume["Labels"],
        "CreatedAt": text("CreatedAt"),
        "CreatedSince": created.map(|time| human::ago(time.as_second())).unwrap_or_default(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

async fn inspect(client: &Client, args: &InspectArgs) -> Result<(), Error> {
    show(&args.names, args.format.as_deref(), async |name| {
        let target = Target::object("volumes", name, "");
        client.get(&format!("inspect volume {name}"), &target).await
    })
    .await
}

async fn remove(client: &Client, args: &RmArgs) -> Result<(), Error> {
    each(&args.names, async |name| {
        let target = Target::object("volumes", name, "").with_flag("force", args.force);
        let action = format!("remove volume {name}");
        client.delete(&action, &target).await
    })
    .await
}

async fn prune(client: &Client, args: &PruneArgs) -> Result<(), Error> {
    let mut filter = args.filter.clone();
    if args.all {
        filter.push("all=true".to_owned());
    }
    let target = Target::new("/volumes/prune").with_some("filters", filters(&filter)?);
    let pruned = client.post("remove volumes", &target, None).await?;
    for name in pruned["VolumesDeleted"].as_array().into_iter().flatten() {
        print::line(name.as_str().unwrap_or_default())?;
    }
    let bytes = pruned["SpaceReclaimed"].as_u64().unwrap_or(0);
    anstream::eprintln!("{} are free again", human::size(bytes));
    Ok(())
}
