//! Names, IDs, tags and removal.

use atoll_image::{ImageError, ImageStore, ImageUse, RemoveItem};

use crate::support::{Packing, Sandbox, TestImage, tar_of};

fn nobody(_: &atoll_image::Digest) -> Option<ImageUse> {
    None
}

fn untagged(name: &str) -> RemoveItem {
    RemoveItem::Untagged(name.to_owned())
}

#[test]
fn images_are_found_by_name_and_by_unique_beginnings_of_ids() {
    let sandbox = Sandbox::new();
    let image = TestImage::small(Packing::Plain);
    sandbox.load(&image.docker(&["bb:1"])).unwrap();
    let hex = image.id.hex();
    for name in [
        "bb:1",
        "library/bb:1",
        "docker.io/library/bb:1",
        &hex,
        &hex[..12],
        &hex[..3],
    ] {
        assert_eq!(sandbox.store.resolve(name).unwrap().id, image.id, "{name}");
    }
    assert_eq!(
        sandbox.store.resolve(&image.id.to_string()).unwrap().id,
        image.id
    );
    let text = |name| sandbox.store.resolve(name).unwrap_err().to_string();
    assert_eq!(text("bb"), "No such image: bb:latest");
    assert_eq!(
        text("Bb"),
        "invalid reference format: repository name (Bb) must be lowercase"
    );
}

#[test]
fn removing_untags_until_the_last_name_and_then_deletes() {
    let sandbox = Sandbox::new();
    let empty = sandbox.paths();
    let image = TestImage::small(Packing::Plain);
    sandbox
        .load(&image.docker(&["bb:1", "bb:2", "other:1"]))
        .unwrap();
    let remove = |name: &str, force| sandbox.store.remove(name, force, &nobody);
    assert_eq!(remove("bb:1", false).unwrap(), [untagged("bb:1")]);
    let error = remove(&image.id.short(), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            image.id.short()
        )
    );
    let items = remove(&image.id.short(), true).unwrap();
    assert_eq!(items[..2], [untagged("bb:2"), untagged("other:1")]);
    assert_eq!(items[2], RemoveItem::Deleted(image.id.to_string()));
    assert_eq!(items.len(), 5, "two layers too");
    assert_eq!(sandbox.paths(), empty);
}

#[test]
fn shared_layers_stay_while_an_image_uses_them() {
    let sandbox = Sandbox::new();
    let base = tar_of([("base", &b"1"[..])]);
    let small = TestImage::new(std::slice::from_ref(&base), Packing::Plain);
    let large = TestImage::new(&[base, tar_of([("more", &b"2"[..])])], Packing::Plain);
    sandbox.load(&small.docker(&["small"])).unwrap();
    sandbox.load(&large.docker(&["large"])).unwrap();
    assert_eq!(sandbox.store.layers().list().unwrap().len(), 2);
    assert_eq!(
        sandbox.store.remove("large", false, &nobody).unwrap().len(),
        3
    );
    assert_eq!(sandbox.store.layers().list().unwrap().len(), 1);
    assert_eq!(sandbox.file("small", "base").as_deref(), Some("1"));
    assert_eq!(
        sandbox.store.remove("small", false, &nobody).unwrap().len(),
        3
    );
    assert!(sandbox.store.layers().list().unwrap().is_empty());
}

#[test]
fn images_of_containers_are_kept() {
    let sandbox = Sandbox::new();
    let image = TestImage::small(Packing::Plain);
    sandbox.load(&image.docker(&["bb"])).unwrap();
    let used = |is_running| {
        move |_: &atoll_image::Digest| {
            Some(ImageUse {
                container: "abc".to_owned(),
                is_running,
            })
        }
    };
    let short = image.id.short();
    let refusal = |name: &str, force, is_running| {
        sandbox
            .store
            .remove(name, force, &used(is_running))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal("bb", false, false),
        "conflict: unable to remove repository reference \"bb:latest\" (must force) - container \
         abc is using its referenced image"
    );
    assert!(
        refusal(&short, false, false)
            .contains("(must be forced) - image is being used by stopped container abc")
    );
    assert!(
        refusal(&short, true, true)
            .contains("(cannot be forced) - image is being used by running container abc")
    );
    assert_eq!(
        sandbox.store.remove("bb", true, &used(false)).unwrap(),
        [untagged("bb:latest")]
    );
    assert_eq!(
        sandbox.store.resolve(&short).unwrap().repo_tags,
        Vec::<String>::new()
    );
    assert!(sandbox.store.prune(&used(false)).unwrap().is_empty());
    assert_eq!(sandbox.store.prune(&nobody).unwrap().len(), 3);
}

#[test]
fn a_tag_moves_from_one_image_to_another() {
    let sandbox = Sandbox::new();
    let first = TestImage::small(Packing::Plain);
    let second = TestImage::new(&[tar_of([("x", &b"x"[..])])], Packing::Plain);
    sandbox.load(&first.docker(&["bb"])).unwrap();
    let loaded = sandbox.load(&second.docker(&["bb"])).unwrap();
    assert_eq!(loaded[0].replaced, Some(first.id));
    assert_eq!(sandbox.store.resolve("bb").unwrap().id, second.id);
    sandbox
        .store
        .tag(&first.id, &"me/old:1".parse().unwrap())
        .unwrap();
    assert_eq!(sandbox.store.resolve("me/old:1").unwrap().id, first.id);
    let missing = atoll_image::Digest::of(b"missing");
    let error = sandbox
        .store
        .tag(&missing, &"x".parse().unwrap())
        .unwrap_err();
    assert!(error.is_not_found());
}

#[test]
fn the_host_is_reserved() {
    let sandbox = Sandbox::new();
    let host = sandbox.store.resolve("host").unwrap();
    assert!(host.is_host && host.chain_ids.is_empty());
    assert_eq!(sandbox.store.resolve(&host.id.to_string()).unwrap(), host);
    assert_eq!(
        sandbox.store.lower_dirs(&host),
        [std::path::PathBuf::from("/")]
    );
    let image = TestImage::small(Packing::Plain);
    let loaded = sandbox.load(&image.docker(&["host"])).unwrap_err();
    assert_eq!(
        loaded.to_string(),
        "cannot load `host`: the name is reserved for the running system's root"
    );
    assert!(sandbox.store.list().unwrap().is_empty());
    for error in [
        sandbox.store.remove("host", true, &nobody).unwrap_err(),
        sandbox
            .store
            .tag(&host.id, &"x".parse().unwrap())
            .unwrap_err(),
    ] {
        assert!(matches!(error, ImageError::HostReserved { .. }) && error.hint().is_some());
    }
}

#[test]
fn everything_is_there_after_opening_again_and_what_is_damaged_goes() {
    let sandbox = Sandbox::new();
    let kept = TestImage::small(Packing::Plain);
    let lost = TestImage::new(&[tar_of([("x", &b"x"[..])])], Packing::Plain);
    sandbox.load(&kept.docker(&["kept:1"])).unwrap();
    sandbox.load(&lost.docker(&["lost:1"])).unwrap();
    let Sandbox { dir, store } = sandbox;
    let error = ImageStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, ImageError::InUse { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--data-root"));
    store.layers().wait_synced();
    let chain = store.resolve("lost:1").unwrap().chain_ids[0];
    drop(store);
    std::fs::remove_dir_all(dir.path().join("layers").join(chain.hex())).unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(store.resolve("kept:1").unwrap().id, kept.id);
    assert!(store.resolve("lost:1").unwrap_err().is_not_found());
    assert_eq!(store.list().unwrap().len(), 1);
}
