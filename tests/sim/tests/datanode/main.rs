//! The real DataNode under NameNodes and writers that do what the test says.

mod namenodes;
mod pipeline;
mod recovery;
mod scene;
mod volumes;
