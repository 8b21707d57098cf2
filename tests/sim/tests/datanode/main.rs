//! The real DataNode under NameNodes and writers that do what the test says.

mod buffers;
mod namenodes;
mod pipeline;
mod recovery;
mod scanner;
mod scene;
mod volumes;
