//! Traffic that goes on while something happens, and accounts for itself.

mod busy;
mod hammer;
mod lockstep;
mod tap;

pub use self::{
    busy::{BusyConnection, IdleConnection},
    hammer::{Hammer, HammerReport},
    lockstep::Lockstep,
    tap::Tap,
};
pub(crate) use hammer::Nail;
