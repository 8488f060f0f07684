//! What tests and fuzzing hold against the verdict (cargo feature `testing`): frames, looked at by another
//! parser, and what should become of them.

pub mod fuzz;
mod model;
mod sight;

pub use model::{Asked, Expected, Model, frames_of};
