//! How a command ends when it does not end well.

use std::process::ExitCode;

/// What a Go program's panic exits with.
pub(crate) const PANIC_EXIT: u8 = 2;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A Go panic: what the original prints, and what this stand-in knows more.
    Panic(&'static str, String),
    /// An error the command reports itself.
    Error(String),
    /// The command line is wrong: the whole text.
    Usage(String),
    /// Run as root.
    Root,
}

impl Failure {
    /// Prints the failure to stderr; the exit code that goes with it.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Failure::Panic(message, detail) => {
                print_panic(message);
                eprintln!("bingo stand-in: {detail}");
                ExitCode::from(PANIC_EXIT)
            }
            Failure::Error(message) => {
                eprintln!("Error: {message}");
                ExitCode::FAILURE
            }
            Failure::Usage(text) => {
                eprint!("{text}");
                ExitCode::FAILURE
            }
            Failure::Root => {
                eprintln!(
                    "Didn't your mom teach you not to run anything incomprehensible from root?"
                );
                ExitCode::FAILURE
            }
        }
    }
}

/// The shape of a Go panic on stderr.
pub(crate) fn print_panic(message: &str) {
    eprintln!("panic: {message}\n\ngoroutine 1 [running]:\nmain.main()");
}
