//! What is said about a [`Flaw`]: to people, and to those who read PgBouncer's
//! log.

use super::error::{Flaw, Place, Problem};

impl Flaw {
    /// What is wrong, in one sentence without a full stop.
    pub fn summary(&self) -> String {
        let Self { key, section, .. } = self;
        match &self.problem {
            Problem::Unreadable(why) => format!("the file cannot be read: {why}"),
            Problem::IncludedTooDeep => "files include each other too deeply".to_owned(),
            Problem::Syntax(expected) => format!("syntax error: {expected}"),
            Problem::EntrySyntax(what) => format!("\"{key}\" is not a list of key=value: {what}"),
            Problem::Encoding => "the text is not UTF-8".to_owned(),
            Problem::UnknownSection { .. } => format!("unknown section [{section}]"),
            Problem::NoSection => format!("\"{key}\" stands before any section"),
            Problem::MainSectionMissing => "there is no section [pgbouncer]".to_owned(),
            Problem::UnknownKey { .. } => format!("unknown setting \"{key}\" in [{section}]"),
            Problem::BadValue {
                value, expected, ..
            } => {
                format!(
                    "invalid value \"{value}\" for \"{key}\" in [{section}]: expected {expected}"
                )
            }
            Problem::MissingKey => format!("\"{key}\" is missing in [{section}]"),
            Problem::ReservedName => format!("the database name \"{key}\" is the console's"),
            Problem::NameTooLong => format!("the database name \"{key}\" is longer than 63 bytes"),
            Problem::PeerId => format!("the peer \"{key}\" is not a number from 1 to 65535"),
            Problem::Duplicate(first) if key.is_empty() => {
                format!("[{section}] is given twice, first at line {}", first.line)
            }
            Problem::Duplicate(first) => {
                format!(
                    "\"{key}\" in [{section}] is given twice, first at line {}",
                    first.line
                )
            }
        }
    }

    /// What the user may have meant.
    pub fn suggestion(&self) -> Option<&str> {
        match &self.problem {
            Problem::UnknownSection { suggestion }
            | Problem::UnknownKey { suggestion, .. }
            | Problem::BadValue { suggestion, .. } => suggestion.as_deref(),
            _ => None,
        }
    }

    /// What to do about it, as a sentence.
    pub fn remedy(&self) -> String {
        let Self { key, section, .. } = self;
        if let Some(suggestion) = self.suggestion() {
            return format!("Write \"{suggestion}\" if that was meant, or remove it.");
        }
        match &self.problem {
            Problem::Unreadable(_) => "Check the file's name, and that this user may read it.".to_owned(),
            Problem::IncludedTooDeep => "Remove the %include that leads back here.".to_owned(),
            Problem::Syntax(_) => "Correct the line, or begin it with # to make it a comment.".to_owned(),
            Problem::EntrySyntax(_) => "Write key=value pairs separated by blanks; a value that holds \
                 blanks stands in 'single quotes', with '' for a quote in it; a key without a value \
                 is left out."
                .to_owned(),
            Problem::Encoding => "Save the file as UTF-8.".to_owned(),
            Problem::UnknownSection { .. } => "Remove the section.".to_owned(),
            Problem::NoSection => format!("Write its section above it, or remove {key}."),
            Problem::MainSectionMissing => "Add a line [pgbouncer]; the section may be empty.".to_owned(),
            Problem::UnknownKey { elsewhere: Some(section), .. } => format!("Move it to [{section}]."),
            Problem::UnknownKey { .. } => {
                "Remove it; docs/configuration.md lists the settings.".to_owned()
            }
            Problem::BadValue { expected, .. } => format!("Give {key} {expected}, or remove it."),
            Problem::MissingKey if key == "nodes" => {
                "Add a section [balancer.nodes.NAME] with the node's address.".to_owned()
            }
            Problem::MissingKey => format!("Add {key} to [{section}]."),
            Problem::ReservedName => "Give the database another name.".to_owned(),
            Problem::NameTooLong => {
                "Give the entry a shorter name; its dbname names the server's database.".to_owned()
            }
            Problem::PeerId => "Name the peer by its peer_id.".to_owned(),
            Problem::Duplicate(_) => "Keep one of the two.".to_owned(),
        }
    }

    /// The first of [`pgbouncer_messages`](Self::pgbouncer_messages): the one
    /// that says what is wrong.
    pub fn pgbouncer_message(&self) -> String {
        self.pgbouncer_messages().swap_remove(0)
    }

    /// The lines PgBouncer logs for this error, in its order: what is wrong,
    /// the setting it is wrong in, the includes that led there. The line number
    /// is that of the error itself (PgBouncer counts on to the next setting).
    pub fn pgbouncer_messages(&self) -> Vec<String> {
        let mut messages: Vec<String> = self.pgbouncer_cause().into_iter().collect();
        if self.is_about_a_setting() {
            let own = || (self.key.clone(), "***".to_owned());
            let (key, value) = self.line.clone().unwrap_or_else(own);
            let at = at(&self.place);
            messages.push(format!(
                "invalid value \"{value}\" for parameter {key} in configuration {at}"
            ));
        }
        messages.extend(self.included_from.iter().map(|place| {
            format!(
                "error processing include file in configuration {}, stopping loading",
                at(place)
            )
        }));
        messages
    }

    /// Whether PgBouncer ends with the setting it could not take.
    fn is_about_a_setting(&self) -> bool {
        matches!(
            self.problem,
            Problem::NoSection
                | Problem::EntrySyntax(_)
                | Problem::UnknownKey { .. }
                | Problem::BadValue { .. }
                | Problem::MissingKey
                | Problem::ReservedName
                | Problem::NameTooLong
                | Problem::PeerId
        )
    }

    /// PgBouncer's words for what is wrong; none where it only names the setting.
    fn pgbouncer_cause(&self) -> Option<String> {
        let Self {
            problem,
            place,
            section,
            key,
            ..
        } = self;
        let at = at(place);
        let table = section.split_once('.').map(|(table, _)| table);
        Some(match problem {
            Problem::Unreadable(why) => {
                format!("could not load file \"{}\": {why}", place.file.display())
            }
            Problem::IncludedTooDeep => {
                format!("include nesting level too deep {at}, stopping loading")
            }
            Problem::Syntax(_) | Problem::Encoding => {
                format!("syntax error in configuration {at}, stopping loading")
            }
            Problem::UnknownSection { .. } => {
                format!("invalid section \"{section}\" in configuration {at}")
            }
            Problem::NoSection => format!("load_init_file: value without section: {key}"),
            Problem::MainSectionMissing => {
                "load_init_file: main section missing from config file".to_owned()
            }
            Problem::EntrySyntax(_) if table == Some("users") => {
                "syntax error in user settings".to_owned()
            }
            Problem::EntrySyntax(_) => "syntax error in connection string".to_owned(),
            Problem::UnknownKey { .. } => match table {
                Some("databases" | "peers") => format!("unrecognized connection parameter: {key}"),
                Some("users") => format!("unrecognized user parameter: {key}"),
                _ => format!("unknown parameter: {section}/{key}"),
            },
            Problem::BadValue { value, .. } => return bad_value(table, key, value),
            Problem::MissingKey => match section.strip_prefix("peers.") {
                Some(id) => format!("{key} was not provided for peer {id}"),
                None => format!("{key} was not provided for {section}"),
            },
            Problem::ReservedName => format!("database name \"{key}\" is reserved"),
            Problem::NameTooLong => format!("too long db name: {key}"),
            Problem::PeerId => {
                "ids of peers must be a number larger than 0 and at most 65536".to_owned()
            }
            Problem::Duplicate(_) => format!("{} {at}", self.summary()),
        })
    }
}

fn bad_value(table: Option<&str>, key: &str, value: &str) -> Option<String> {
    match (table, key) {
        (Some("databases" | "users" | "peers"), "pool_mode") => {
            Some(format!("invalid pool mode: {value}"))
        }
        (Some("databases" | "users" | "peers"), _) => Some(format!("invalid {key}: {value}")),
        (None, "auth_dbname") => Some(format!(
            "cannot use the reserved \"{value}\" database as an auth_dbname"
        )),
        _ => None,
    }
}

fn at(place: &Place) -> String {
    format!("({}:{})", place.file.display(), place.line)
}
