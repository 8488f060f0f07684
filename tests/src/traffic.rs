//! Traffic that goes on while something happens, and accounts for itself.

mod busy;
mod hammer;
mod lockstep;

pub use self::{
    busy::BusyConnection,
    hammer::{Hammer, HammerReport},
    lockstep::Lockstep,
};
pub(crate) use hammer::Nail;
