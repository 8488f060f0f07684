//! `BPF_PROG_TEST_RUN`: the programs on a frame, without a device.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use datapath::{Direction, Verdict};

use crate::kernel::{HOOKS, KernelError, Programs, program};

impl Programs {
    /// Judges one frame as a hook would, `repeat` times: the last verdict, and the mean time of one.
    ///
    /// # Errors
    /// [`KernelError::Bpf`].
    pub fn time_packet(
        &mut self,
        direction: Direction,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(Verdict, Duration), KernelError> {
        let hook = &HOOKS[usize::from(direction.number())];
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, hook)
            .and_then(|program| program.test_run(options))
            .map_err(|error| KernelError::bpf(format!("running {}", hook.program), error))?;
        // TC_ACT_UNSPEC is -1, TC_ACT_SHOT is 2.
        let verdict = match result.return_value.cast_signed() {
            -1 => Verdict::Pass,
            _ => Verdict::Drop,
        };
        Ok((verdict, result.duration))
    }
}
