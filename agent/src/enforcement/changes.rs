//! Wakes the task when interfaces or addresses change.

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    error::with_causes,
    kernel::{Changes, KernelError},
};

/// Hears of changes on a thread of its own, which ends with the receiver. Changes that come together are
/// one. Without it, the task looks every few seconds.
pub(super) fn hear() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    let started = Changes::listen().and_then(|changes| {
        std::thread::Builder::new()
            .name("interfaces".into())
            .spawn(move || tell(&changes, &sender))
            .map_err(|error| KernelError::io("starting the thread that hears of interfaces", error))
    });
    if let Err(error) = started {
        warn!(error = %with_causes(&error), "changes of interfaces are not heard of, and seen at the next look only");
    }
    receiver
}

fn tell(changes: &Changes, sender: &mpsc::Sender<()>) {
    while !sender.is_closed() {
        match changes.wait() {
            // A full queue says the same already.
            Ok(true) => drop(sender.try_send(())),
            Ok(false) => {}
            Err(error) => {
                warn!(error = %with_causes(&error), "changes of interfaces are seen at the next look only");
                return;
            }
        }
    }
}
