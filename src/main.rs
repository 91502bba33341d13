//! The binary: everything lives in the library but the allocator, which is the program's to choose.

use std::process::ExitCode;

/// What 2,000 streams had touched stayed with the process, and of their buffers all that earlier ones
/// had used. This one gives it back; its options are in `.cargo/config.toml`. Elsewhere the system's
/// serves: this one is built for the page size of the machine that builds it.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tailhop::cli::main()
}
