//! `version` and `info`.

use serde_json::{Value, json};

use crate::arguments::FormatArgs;
use crate::client::{Client, Target};
use crate::error::Error;
use crate::print;
use crate::template::Template;

/// `atoll version`.
pub(super) async fn version(client: &Client, args: &FormatArgs) -> Result<(), Error> {
    let server: Value = client
        .get("ask for the version", &Target::new("/version"))
        .await?;
    let both = json!({
        "Client": {
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": client.version(),
            "Os": std::env::consts::OS,
            "Arch": std::env::consts::ARCH,
        },
        "Server": server,
    });
    if let Some(format) = args.format() {
        return formatted(&both, format);
    }
    let field = |name| {
        both["Server"]
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    print::text(&format!(
        "Client: atoll {}\n API version:  {}\n\nEngine: {} at {}\n Version:      {}\n \
         API version:  {} (minimum {})\n Kernel:       {}\n OS/Arch:      {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        client.version(),
        both.pointer("/Server/Platform/Name")
            .and_then(Value::as_str)
            .unwrap_or("?"),
        client.address(),
        field("Version"),
        field("ApiVersion"),
        field("MinAPIVersion"),
        field("KernelVersion"),
        field("Os"),
        field("Arch"),
    ))
}

/// `atoll info`.
pub(super) async fn info(client: &Client, args: &FormatArgs) -> Result<(), Error> {
    let info: Value = client
        .get("ask for information", &Target::new("/info"))
        .await?;
    if let Some(format) = args.format() {
        return formatted(&info, format);
    }
    const FIELDS: [(&str, &str); 17] = [
        ("Containers", "Containers"),
        ("ContainersRunning", " Running"),
        ("ContainersPaused", " Paused"),
        ("ContainersStopped", " Stopped"),
        ("Images", "Images"),
        ("ServerVersion", "Engine version"),
        ("Driver", "Storage driver"),
        ("LoggingDriver", "Logging driver"),
        ("CgroupDriver", "Cgroup driver"),
        ("CgroupVersion", "Cgroup version"),
        ("DefaultRuntime", "Default runtime"),
        ("Isolation", "Isolation"),
        ("KernelVersion", "Kernel"),
        ("OperatingSystem", "Operating system"),
        ("NCPU", "CPUs"),
        ("DockerRootDir", "Data root"),
        ("Name", "Name"),
    ];
    let mut text = String::new();
    for (field, label) in FIELDS {
        match info.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) if value.is_empty() => {}
            Some(Value::String(value)) => text.push_str(&format!("{label}: {value}\n")),
            Some(value) => text.push_str(&format!("{label}: {value}\n")),
        }
    }
    print::text(&text)?;
    for warning in info["Warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        anstream::eprintln!("warning: {warning}");
    }
    Ok(())
}

fn formatted(object: &Value, format: &str) -> Result<(), Error> {
    if format == "json" {
        return print::line(&object.to_string());
    }
    print::line(&Template::parse(format)?.render(object)?)
}
