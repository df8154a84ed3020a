//! The ident file: which system users may log in as which database users.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::token::{Line, Token};

/// The maps of an ident file, by name.
#[derive(Debug, Default)]
pub struct IdentMaps(HashMap<Box<[u8]>, Arc<IdentMap>>);

/// One map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentMap {
    /// Its name.
    pub name: String,
    mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    system_user: Box<[u8]>,
    /// None is `all`.
    user: Option<Box<[u8]>>,
}

/// A line of an ident file that is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentFault {
    /// Its number, from 1.
    pub line: usize,
    /// It goes on where it should end.
    is_too_long: bool,
}

impl fmt::Display for IdentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match self.is_too_long {
            true => write!(f, "ident line {line}: unsupported parameters"),
            false => write!(f, "ident line {line}: expected MAP SYSTEM-USER USER"),
        }
    }
}

impl IdentMaps {
    /// Reads the text of an ident file. Bad lines are skipped and reported.
    pub fn parse(text: &[u8]) -> (IdentMaps, Vec<IdentFault>) {
        let mut maps: HashMap<Box<[u8]>, IdentMap> = HashMap::new();
        let mut faults = Vec::new();
        for (index, text) in text.split(|&byte| byte == b'\n').enumerate() {
            match parse_line(text) {
                Ok(None) => {}
                Ok(Some((name, mapping))) => {
                    let new = || IdentMap {
                        name: String::from_utf8_lossy(name).into_owned(),
                        mappings: Vec::new(),
                    };
                    let map = maps.entry(name.into()).or_insert_with(new);
                    map.mappings.push(mapping);
                }
                Err(is_too_long) => faults.push(IdentFault {
                    line: index + 1,
                    is_too_long,
                }),
            }
        }
        let maps = maps.into_iter().map(|(name, map)| (name, Arc::new(map)));
        (IdentMaps(maps.collect()), faults)
    }

    /// The map of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<IdentMap>> {
        self.0.get(name)
    }
}

impl IdentMap {
    /// Whether somebody for whom `is_system_user` is true of a name may log in
    /// as `user`.
    pub fn admits(&self, is_system_user: impl Fn(&[u8]) -> bool, user: &str) -> bool {
        self.mappings.iter().any(|mapping| {
            let fits = mapping
                .user
                .as_deref()
                .is_none_or(|it| it == user.as_bytes());
            fits && is_system_user(&mapping.system_user)
        })
    }
}

/// A line's map name and mapping, or whether it is too long.
fn parse_line(text: &[u8]) -> Result<Option<(&[u8], Mapping)>, bool> {
    let mut line = Line::new(text);
    if line.token == Token::End {
        return Ok(None);
    }
    let name = line.take_word().ok_or(false)?;
    let system_user = line.take_name().ok_or(false)?;
    let user = match line.eat("all") {
        true => None,
        false => Some(line.take_name().ok_or(false)?.into()),
    };
    if line.token != Token::End {
        return Err(true);
    }
    let system_user = system_user.into();
    Ok(Some((name, Mapping { system_user, user })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(text: &str, map: &str, system_user: &str, user: &str) -> bool {
        let (maps, _) = IdentMaps::parse(text.as_bytes());
        let map = maps.get(map.as_bytes()).expect("a map");
        map.admits(|name| name == system_user.as_bytes(), user)
    }

    #[test]
    fn a_map_admits_the_pairs_it_lists() {
        let text = "m root ann\nm root bob\nm www carol\nother www ann\n";
        assert!(admits(text, "m", "root", "ann"));
        assert!(admits(text, "m", "root", "bob"));
        assert!(!admits(text, "m", "root", "carol"));
        assert!(!admits(text, "m", "www", "ann"));
        assert!(admits(text, "other", "www", "ann"));
    }

    #[test]
    fn all_is_everybody_unless_it_is_quoted() {
        assert!(admits("m root all", "m", "root", "ann"));
        assert!(!admits("m root all", "m", "www", "ann"));
        assert!(!admits("m root \"all\"", "m", "root", "ann"));
        assert!(admits("m root \"all\"", "m", "root", "all"));
    }

    #[test]
    fn names_may_be_quoted_and_are_no_patterns() {
        assert!(admits("m \"a b\" \"c,d\" # x", "m", "a b", "c,d"));
        assert!(!admits("m /^(.*)$ \\1", "m", "ann", "ann"));
    }

    #[test]
    fn bad_lines_are_skipped_and_told() {
        let text =
            "# c\n\nm\nm root\n\"m\" root ann\nm root ann more\nm root \"ann\nm , ann\nm root ann";
        let (maps, faults) = IdentMaps::parse(text.as_bytes());
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [3, 4, 5, 6, 7, 8]);
        let map = maps.get(b"m").expect("the good line");
        assert_eq!(map.mappings.len(), 1);
        assert_eq!(
            faults[3].to_string(),
            "ident line 6: unsupported parameters"
        );
    }
}
