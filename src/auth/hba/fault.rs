//! What is wrong with lines of an HBA file.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

/// What the log is told about a line. The texts begin with PgBouncer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It is skipped.
    Skipped {
        /// Its number, from 1.
        line: usize,
        /// Why.
        fault: Fault,
    },
    /// Its address has bits outside its mask, so it fits nobody.
    Mismatch {
        /// Its number, from 1.
        line: usize,
        /// The address.
        address: IpAddr,
        /// The mask.
        mask: IpAddr,
    },
}

/// Why a line is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its first word is no type.
    Type,
    /// A list of names is missing, or ends in a comma.
    Names,
    /// `samerole`, `samegroup` or `+group`.
    Roles(&'static str),
    /// A file of names cannot be read, or has a bad line.
    NameFile(String),
    /// There is no address.
    NoAddress,
    /// The address is none; host names are not looked up.
    Address(String),
    /// The number behind the slash is none.
    Bits,
    /// An address without slash, and no mask behind it.
    NoMask,
    /// The mask is none, or of the other kind of address.
    Mask(String),
    /// The method is not known.
    Method(String),
    /// The option behind the method is not `map=NAME`.
    Option(String),
    /// The ident file has no such map.
    NoMap(String),
    /// The line goes on where it should end.
    TooLong,
}

impl Notice {
    /// The line for the log. `file` is the HBA file.
    pub fn text(&self, file: &Path) -> String {
        let file = file.display();
        match self {
            Notice::Skipped { line, fault } => format!("hba line {line}: {fault}"),
            Notice::Mismatch {
                line,
                address,
                mask,
            } => format!("address does not match mask in {file} line #{line}: {address} / {mask}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Type => f.write_str("unknown type"),
            Fault::Names => f.write_str("expected a list of names"),
            Fault::Roles(word) => write!(f, "{word} is not supported"),
            Fault::NameFile(file) => write!(f, "could not read the names in {file}"),
            Fault::NoAddress => f.write_str("did not find address"),
            Fault::Address(text) => write!(f, "failed to parse address - {text}"),
            Fault::Bits => f.write_str("invalid mask"),
            Fault::NoMask => f.write_str("did not find mask"),
            Fault::Mask(text) => write!(f, "failed to parse mask: {text}"),
            Fault::Method(text) => write!(f, "unsupported method: {text}"),
            Fault::Option(text) => write!(
                f,
                "Ident map {text} is malformed. It is not in map=value format."
            ),
            Fault::NoMap(name) => write!(f, "Ident map {name} is not found in ident config file"),
            Fault::TooLong => f.write_str("unsupported parameters"),
        }
    }
}
