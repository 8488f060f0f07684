//! Fail points: a test counts the steps of an operation, looks at packets between any two of them, and
//! ends it at any. Between two steps stands one change that outlives the process: a write to a map, a
//! program on an interface, a pin, a file. In the agent itself there is nothing here.

/// A step is about to be taken.
///
/// # Errors
/// In a test that ends the operation here.
#[cfg(not(test))]
pub fn step(_doing: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use self::testing::{run, step};

#[cfg(test)]
mod testing {
    use std::{cell::RefCell, io};

    /// Sees each step, and fails those that it is to.
    type Watch = Box<dyn FnMut(&'static str) -> io::Result<()>>;

    thread_local! {
        static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
    }

    /// A step is about to be taken.
    pub fn step(doing: &'static str) -> io::Result<()> {
        // What the test does here takes no steps of its own.
        let watch = WATCH.with(|watch| watch.borrow_mut().take());
        let Some(mut watch) = watch else {
            return Ok(());
        };
        let outcome = watch(doing);
        WATCH.with(|slot| *slot.borrow_mut() = Some(watch));
        outcome
    }

    /// Runs an operation on this thread, with each of its steps watched.
    pub fn run<T>(
        watch: impl FnMut(&'static str) -> io::Result<()> + 'static,
        operation: impl FnOnce() -> T,
    ) -> T {
        WATCH.with(|slot| *slot.borrow_mut() = Some(Box::new(watch)));
        let result = operation();
        WATCH.with(|slot| *slot.borrow_mut() = None);
        result
    }
}
