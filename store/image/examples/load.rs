//! Times the store alone: `load DATA_ROOT import|load NAME < archive`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{error::Error, io, path::Path, time::Instant};

use atoll_image::{ImageStore, ImportOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, verb, name] = &arguments[..] else {
        return Err("usage: load DATA_ROOT import NAME < archive".into());
    };
    let store = ImageStore::open(Path::new(root))?;
    let start = Instant::now();
    match verb.as_str() {
        "import" => {
            let reference = Some(name.parse()?);
            let options = ImportOptions {
                reference,
                ..ImportOptions::default()
            };
            println!("{}", store.import(io::stdin().lock(), options)?);
        }
        "load" => {
            for loaded in store.load(io::stdin().lock(), &mut |_| {})? {
                println!("{loaded:?}");
            }
        }
        _ => return Err("no such verb".into()),
    }
    println!("{} ms", start.elapsed().as_millis());
    for image in store.list()? {
        println!(
            "{:?} {} {} bytes",
            image.repo_tags, image.id, image.size_bytes
        );
    }
    Ok(())
}
