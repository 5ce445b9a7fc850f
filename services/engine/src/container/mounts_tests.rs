//! Tests of reading mounts.

use super::*;
use crate::types::{Empty, VolumeOptions};

fn host(binds: &[&str]) -> HostConfig {
    HostConfig {
        binds: Some(binds.iter().map(|&bind| bind.to_owned()).collect()),
        ..HostConfig::default()
    }
}

fn config(volumes: &[&str]) -> ContainerConfig {
    let volumes = volumes.iter().map(|&path| (path.to_owned(), Empty {}));
    ContainerConfig {
        volumes: Some(volumes.collect()),
        ..ContainerConfig::default()
    }
}

fn refused(host: &HostConfig) -> String {
    collect(host, &config(&[]), &[]).unwrap_err().to_string()
}

fn request(source: &str, options: VolumeOptions) -> MountRequest {
    MountRequest {
        kind: "volume".to_owned(),
        source: source.to_owned(),
        target: "/v".to_owned(),
        volume_options: Some(options),
        ..MountRequest::default()
    }
}

#[test]
fn binds_are_read() {
    let mount = parse_bind("/a//b/:/c/../d:ro,rslave,z").unwrap().point;
    assert_eq!(
        (mount.source.as_str(), mount.destination.as_str()),
        ("/a/b", "/d")
    );
    assert!(!mount.rw && mount.volume.is_none());
    assert_eq!(mount.propagation, "rslave");
    for bad in [
        "",
        "a",
        "/",
        "/a:b",
        "/a:/",
        "/a:/b:huh",
        "a:b:c:d",
        ":/b",
        "data:/d:rslave",
        "/a:",
    ] {
        assert!(parse_bind(bad).is_err(), "{bad}");
    }
}

#[test]
fn volumes_are_read() {
    let named = parse_bind("data:/d:ro,nocopy").unwrap();
    assert_eq!(named.asked.unwrap().name, "data");
    assert_eq!(
        (named.point.mode.as_str(), named.point.rw),
        ("ro,nocopy", false)
    );
    let volume = named.point.volume.unwrap();
    assert!(!volume.copies && !volume.is_anonymous);
    let plain = parse_bind("data:/d").unwrap().point;
    assert_eq!((plain.kind.as_str(), plain.mode.as_str()), ("volume", "z"));
    assert!(plain.volume.unwrap().copies);
    let bare = parse_bind("/d").unwrap();
    assert_eq!(bare.asked, Some(Asked::default()));
    assert!(bare.point.volume.unwrap().is_anonymous);
}

#[test]
fn what_mount_says_of_volumes_is_checked() {
    let with = |request| HostConfig {
        mounts: Some(vec![request]),
        ..HostConfig::default()
    };
    let subpath = |subpath: &str| VolumeOptions {
        subpath: subpath.to_owned(),
        ..VolumeOptions::default()
    };
    let good = collect(&with(request("data", subpath("a/b"))), &config(&[]), &[]).unwrap();
    let volume = good[0].point.volume.as_ref().unwrap();
    assert_eq!((volume.subpath.as_str(), volume.copies), ("a/b", false));
    for bad in ["/a", "../a", "a/../../b", "a\0"] {
        let said = refused(&with(request("data", subpath(bad))));
        assert!(said.contains("subpath must be a relative path"), "{said}");
    }
    assert!(refused(&with(request("", subpath("a")))).contains("anonymous"));
    let mut other = request("data", VolumeOptions::default());
    other.target = "/..".to_owned();
    assert!(refused(&with(other)).contains("can't be '/'"));
    let driver = HostConfig {
        volume_driver: "rexray".to_owned(),
        ..HostConfig::default()
    };
    assert!(refused(&driver).contains("plugin \"rexray\" not found"));
}

#[test]
fn duplicates_are_refused() {
    assert_eq!(
        refused(&host(&["/a:/x", "b1:/x/"])),
        "Duplicate mount point: /x"
    );
    let mut both = host(&["/a:/x"]);
    both.tmpfs.insert("/x".to_owned(), String::new());
    assert_eq!(refused(&both), "Duplicate mount point: /x");
}

#[test]
fn an_images_volumes_give_way() {
    let all = collect(&host(&["data:/taken"]), &config(&["/taken/", "/free"]), &[]).unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|planned| {
            (
                planned.point.destination.as_str(),
                planned.asked.as_ref().unwrap().name.as_str(),
            )
        })
        .collect();
    assert_eq!(shown, [("/taken", "data"), ("/free", "")]);
    for bad in ["relative", "/", "/a/.."] {
        assert!(collect(&host(&[]), &config(&[bad]), &[]).is_err(), "{bad}");
    }
}

#[test]
fn volumes_of_others_come_without_copying_and_give_way() {
    let mut theirs = Vec::new();
    for (text, name) in [("data:/d", "data"), ("/e", "0123"), ("/host:/h", "")] {
        let mut point = parse_bind(text).unwrap().point;
        point.name = name.to_owned();
        theirs.push(point);
    }
    let others = [(theirs.clone(), "ro".to_owned()), (theirs, "rw".to_owned())];
    let all = collect(&host(&["/own:/h"]), &config(&["/e"]), &others[..1]).unwrap();
    assert_eq!(all.len(), 3);
    let data = &all[0];
    assert_eq!(data.asked.as_ref().unwrap().name, "data");
    assert!(!data.point.rw && !data.point.volume.as_ref().unwrap().copies);
    assert!(all[1].point.volume.as_ref().unwrap().is_anonymous);
    assert_eq!(all[2].point.source, "/own");
    let all = collect(&host(&[]), &config(&[]), &others).unwrap();
    assert!(all.len() == 3 && all.iter().all(|planned| planned.point.rw));
    assert_eq!(parse_volumes_from("web:ro").unwrap(), ("web", "ro"));
    assert!(parse_volumes_from("web:rx").is_err() && parse_volumes_from(":ro").is_err());
}
