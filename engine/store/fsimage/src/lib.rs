//! Checkpoint images: a container of independent, checksummed sections, published atomically (C-09, F-14).
//!
//! What a section holds is the namesystem's business. Here it is a stream of bytes that comes back exactly as it was
//! written, or not at all.
//!
//! # Files of an image directory
//!
//! | name | holds |
//! |---|---|
//! | `fsimage_<txid>` | a published image; `<txid>`, 20 digits, is the last transaction in it |
//! | `fsimage.ckpt_<txid>` | one being written |
//! | `fsimage.ckpt_<txid>.recv` | one being received from another NameNode |
//!
//! An image gets its published name after all of it is durable; a published image that does not verify has rotted.
//!
//! # An image
//!
//! ```text
//! header block | chunks of all sections, back to back | table of sections | zeros to a whole block | footer block
//! ```
//!
//! A chunk is `{section u32, ordinal u32, length u32, crc32c u32, content}`; every chunk of a section but its last holds
//! [`CHUNK_LEN`] bytes, so a reader knows what must come next and a chunk in the wrong place is not believed. The table
//! says where each section starts, so sections can be read side by side on as many cores as there are. Digests are
//! XXH3-128: they show damage and difference; who may write an image is a matter of TLS and roles.
#![forbid(unsafe_code)]

mod copy;
mod directory;
mod error;
mod format;
mod reader;
mod writer;

pub use copy::ImageCopy;
pub use directory::{ImageFile, Loaded, image_name, list, newest, newest_read, retain};
pub use error::{ImageError, Skipped};
pub use format::{
    CHUNK_LEN, Digest, IDENTITY_BYTES_MAX, ImageInfo, SECTIONS_MAX, SectionId, SectionInfo,
};
pub use reader::{Contents, Image, SectionReader};
pub use writer::ImageWriter;
