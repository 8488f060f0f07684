//! What the agent keeps in memory.

/// Gives memory that is free back to the system. To make large tables takes several times what stays of
/// them, and the C library keeps it for the next time.
pub fn give_back() {
    // SAFETY: the call has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
