//! Checkpoint images: a container of independent, checksummed sections, published atomically (C-09, F-14).
#![forbid(unsafe_code)]

mod image;

pub use image::{Image, ImageCopy, ImageError, ImageFile, ImageInfo, ImageWriter, Loaded, SectionId, SectionInfo, SectionReader, Skipped, list, newest, retain};
