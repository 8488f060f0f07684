//! Wakes the task when interfaces, addresses or filters change: at once, and more seldom the longer it goes
//! on.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    error::with_causes,
    kernel::{Changed, Changes, KernelError},
};

/// After a change the next ones wait this long, and are one.
const PAUSE: Duration = Duration::from_millis(10);
/// As long as changes keep coming the pause doubles, up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// The task's end: wakes, and what has changed since it last asked.
pub(super) struct Heard {
    wakes: mpsc::Receiver<()>,
    changed: Arc<Mutex<Changed>>,
}

impl Heard {
    /// Returns when something has changed; none when nothing is heard any more.
    pub(super) async fn next(&mut self) -> Option<Changed> {
        self.wakes.recv().await?;
        Some(mem::take(
            &mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// Hears of changes on a thread of its own, which ends with the receiver. Changes that come together are
/// one. Without it, the task looks every few seconds.
pub(super) fn hear() -> Heard {
    let (sender, wakes) = mpsc::channel(1);
    let changed = Arc::new(Mutex::new(Changed::default()));
    let heard = Arc::clone(&changed);
    let started = Changes::listen().and_then(|changes| {
        std::thread::Builder::new()
            .name("interfaces".into())
            .spawn(move || tell(&changes, &sender, &heard))
            .map_err(|error| KernelError::io("starting the thread that hears of interfaces", error))
    });
    if let Err(error) = started {
        warn!(error = %with_causes(&error), "changes of interfaces are not heard of, and seen at the next look only");
    }
    Heard { wakes, changed }
}

fn tell(changes: &Changes, sender: &mpsc::Sender<()>, heard: &Mutex<Changed>) {
    let mut pause = PAUSE;
    while !sender.is_closed() {
        match changes.wait() {
            // It was quiet for longer than most pauses.
            Ok(changed) if changed.is_nothing() => pause = PAUSE,
            Ok(changed) => {
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(changed);
                // A full queue says the same already.
                let _ = sender.try_send(());
                sleep(pause);
                pause = LONGEST_PAUSE.min(2 * pause);
            }
            Err(error) => {
                warn!(error = %with_causes(&error), "changes of interfaces are seen at the next look only");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{
        io::Write as _,
        path::Path,
        process::{Command, Stdio},
        time::Instant,
    };

    use super::hear;
    use crate::kernel::testing::in_own_namespace;

    /// Runs commands of `ip` as fast as it can.
    fn ip(commands: &str) {
        let mut ip = Command::new("ip");
        let mut ip = ip
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        ip.stdin
            .take()
            .unwrap()
            .write_all(commands.as_bytes())
            .unwrap();
        assert!(ip.wait().unwrap().success());
    }

    #[test]
    fn a_burst_of_changes_wakes_at_once_a_few_times_and_after_its_last() {
        in_own_namespace(|| {
            let mut changes = hear();
            let woken = std::thread::spawn(move || {
                let mut woken = Vec::new();
                while changes.wakes.blocking_recv().is_some() {
                    woken.push(Instant::now());
                    if Path::new("/sys/class/net/bh149").exists() {
                        break;
                    }
                }
                woken
            });
            let begun = Instant::now();
            let burst: String = (0..150)
                .map(|number| format!("link add bh{number} type veth peer name bp{number}\n"))
                .collect();
            ip(&burst);
            let woken = woken.join().unwrap();
            let first = woken[0].duration_since(begun);
            assert!(first.as_millis() < 1000, "{first:?}");
            assert!(woken.len() < 30, "{} looks", woken.len());
        });
    }
}
