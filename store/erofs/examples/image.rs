//! Makes an EROFS image of a directory: `image FOLDER FILE`. What bench/erofs.py times.
#![expect(clippy::unwrap_used, reason = "a part of a bench: an error ends it")]

use std::fs::File;
use std::os::fd::AsFd;

fn main() {
    let words: Vec<_> = std::env::args_os().collect();
    let [_, folder, image] = &words[..] else {
        panic!("usage: image FOLDER FILE");
    };
    let folder = File::open(folder).unwrap();
    let image = File::create(image).unwrap();
    atoll_erofs::write_image(folder.as_fd(), &image, [0; 16]).unwrap();
}
