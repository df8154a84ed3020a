//! What is wrong with a configuration: the place, the setting, the remedy.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line from 1; 0 is the file as a whole.
    pub line: usize,
    /// Column from 1, counted in characters; 0 is the line as a whole.
    pub column: usize,
}

impl Place {
    /// The file as a whole.
    pub fn file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ", column {}", self.column)?;
        }
        Ok(())
    }
}

/// Why a configuration was not loaded: a boxed [`Flaw`].
///
/// `Display` is for people and takes several lines;
/// [`pgbouncer_messages`](Flaw::pgbouncer_messages) is PgBouncer's wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Flaw>);

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// What went wrong.
    pub problem: Problem,
    /// Where it stands.
    pub place: Place,
    /// Section it stands in, dotted as in TOML: `pgbouncer`,
    /// `databases.bingo`; empty outside of any.
    pub section: String,
    /// Setting it is about; empty if about none.
    pub key: String,
    /// The ini line's own `key = value`, for entries given as a whole; a value
    /// that may hold a secret is `***`.
    pub(super) line: Option<(String, String)>,
    /// The `%include` lines that led here, innermost first.
    pub(super) included_from: Vec<Place>,
}

/// The kinds of [`Error`]. Suggestions are known names close to the one given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The file cannot be read, for this reason.
    Unreadable(String),
    /// `%include` in an included file in an included file...
    IncludedTooDeep,
    /// A line that is neither a section, a setting nor a comment; what was
    /// expected instead.
    Syntax(String),
    /// A value that is not `key=value ...`; what was expected instead.
    EntrySyntax(&'static str),
    /// Not UTF-8.
    Encoding,
    /// There is no such section.
    UnknownSection {
        /// A section of a similar name.
        suggestion: Option<String>,
    },
    /// A setting before the first section.
    NoSection,
    /// The ini file has no `[pgbouncer]`.
    MainSectionMissing,
    /// There is no such setting in the section.
    UnknownKey {
        /// A setting of a similar name.
        suggestion: Option<String>,
        /// The section that has a setting of this name.
        elsewhere: Option<&'static str>,
    },
    /// The value cannot be the setting's.
    BadValue {
        /// The value; `***` for secrets.
        value: String,
        /// What it has to be, as the end of "expected ...".
        expected: String,
        /// A word of a similar spelling.
        suggestion: Option<String>,
    },
    /// A setting that has no default is missing.
    MissingKey,
    /// A database named as the console is.
    ReservedName,
    /// A database name of more than 63 bytes.
    NameTooLong,
    /// A peer whose name is not a number from 1 to 65535.
    PeerId,
    /// The name was given before, there.
    Duplicate(Place),
}

impl Error {
    pub(super) fn new(problem: Problem, place: Place) -> Self {
        Self(Box::new(Flaw {
            problem,
            place,
            section: String::new(),
            key: String::new(),
            line: None,
            included_from: Vec::new(),
        }))
    }

    pub(super) fn about(mut self, section: impl Into<String>, key: impl Into<String>) -> Self {
        self.section = section.into();
        self.key = key.into();
        self
    }
}

impl Deref for Error {
    type Target = Flaw;

    fn deref(&self) -> &Flaw {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Flaw {
        &mut self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        write!(f, "  at: {}", self.place)?;
        if !self.section.is_empty() {
            write!(f, ", section [{}]", self.section)?;
        }
        if !self.key.is_empty() {
            write!(f, ", setting {}", self.key)?;
        }
        writeln!(f)?;
        for place in &self.included_from {
            writeln!(f, "  included from: {place}")?;
        }
        if let Some(suggestion) = self.suggestion() {
            writeln!(f, "  did you mean: {suggestion}")?;
        }
        write!(f, "  remedy: {}", self.remedy())
    }
}

impl std::error::Error for Error {}

/// Something that loads but is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// What is odd, in one sentence without a full stop.
    pub what: String,
    /// What to do about it, as a sentence.
    pub remedy: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n  at: {}\n  remedy: {}",
            self.what, self.place, self.remedy
        )
    }
}

/// The name closest to `name`, if it is close enough to be a slip.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_ascii_lowercase();
    // One slip in short names, one for each three letters in longer ones.
    let slips = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, _)| *distance <= slips)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
