//! Reading an HBA file.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use super::address::Addresses;
use super::fault::{Fault, Notice};
use super::ident::{IdentMap, IdentMaps};
use super::token::{Line, Token};
use super::{Connection, Means, Names, Rule, Rules};
use crate::auth::client::Method;

/// Files of names that name further files, one inside the other.
const MAX_DEPTH: u32 = 10;

/// Reads a file of names.
type Reader<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

impl Rules {
    /// Reads the text of the HBA file at `path`; names of further files in it
    /// are relative to that and are read by `read`. Bad lines are skipped and
    /// reported.
    pub fn parse(
        text: &[u8],
        path: &Path,
        maps: &IdentMaps,
        mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> (Rules, Vec<Notice>) {
        let mut rules = Vec::new();
        let mut notices = Vec::new();
        for (index, text) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = index + 1;
            match parse_line(text, line, path, maps, &mut read) {
                Ok(None) => {}
                Ok(Some(rule)) => {
                    if let Some((address, mask)) = rule.addresses.mismatch() {
                        notices.push(Notice::Mismatch {
                            line,
                            address,
                            mask,
                        });
                    }
                    rules.push(Arc::new(rule));
                }
                Err(fault) => notices.push(Notice::Skipped { line, fault }),
            }
        }
        (Rules(rules), notices)
    }
}

fn parse_line(
    text: &[u8],
    number: usize,
    path: &Path,
    maps: &IdentMaps,
    read: &mut Reader<'_>,
) -> Result<Option<Rule>, Fault> {
    let mut line = Line::new(text);
    let connection = match line.token {
        Token::End => return Ok(None),
        Token::Word(b"local") => Connection::Local,
        Token::Word(b"host") => Connection::Host,
        Token::Word(b"hostssl") => Connection::HostSsl,
        Token::Word(b"hostnossl") => Connection::HostNoSsl,
        _ => return Err(Fault::Type),
    };
    line.advance();
    let databases = parse_names(&mut line, path, read)?;
    let users = parse_names(&mut line, path, read)?;
    let addresses = match connection {
        Connection::Local => Addresses::All,
        _ => parse_addresses(&mut line)?,
    };
    let means = parse_method(&mut line)?;
    let map = parse_map(&mut line, maps)?;
    if line.token != Token::End {
        return Err(Fault::TooLong);
    }
    Ok(Some(Rule {
        line: number,
        means,
        map,
        connection,
        databases,
        users,
        addresses,
    }))
}

fn parse_names(line: &mut Line<'_>, path: &Path, read: &mut Reader<'_>) -> Result<Names, Fault> {
    let mut names = Names::default();
    add_names(&mut names, line, path, read, MAX_DEPTH)?;
    Ok(names)
}

/// Adds a list of names. PgBouncer knows the same words in the lists of
/// databases and of users.
fn add_names(
    names: &mut Names,
    line: &mut Line<'_>,
    path: &Path,
    read: &mut Reader<'_>,
    depth: u32,
) -> Result<(), Fault> {
    loop {
        match line.token {
            Token::Word(b"all") => names.all = true,
            Token::Word(b"sameuser") => names.same_user = true,
            Token::Word(b"replication") => names.replication = true,
            Token::Word(b"samerole") => return Err(Fault::Roles("samerole")),
            Token::Word(b"samegroup") => return Err(Fault::Roles("samegroup")),
            Token::Word([b'+', ..]) => return Err(Fault::Roles("+group")),
            Token::Word([b'@', file @ ..]) => add_file(names, file, path, read, depth)?,
            Token::Word(name) => {
                names.names.insert(name.into());
            }
            Token::Quoted(ref name) => {
                names.names.insert(name.as_slice().into());
            }
            Token::Comma | Token::End | Token::Broken => return Err(Fault::Names),
        }
        line.advance();
        if !line.eat_comma() {
            return Ok(());
        }
    }
}

/// Adds the names of a file, one list a line.
fn add_file(
    names: &mut Names,
    file: &[u8],
    path: &Path,
    read: &mut Reader<'_>,
    depth: u32,
) -> Result<(), Fault> {
    let bad = || Fault::NameFile(lossy(file));
    let depth = depth.checked_sub(1).ok_or_else(bad)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = folder.join(str::from_utf8(file).map_err(|_| bad())?);
    let text = read(&file).map_err(|_| bad())?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    if text.is_empty() {
        return Ok(());
    }
    for text in text.split(|&byte| byte == b'\n') {
        add_names(names, &mut Line::new(text), &file, read, depth).map_err(|_| bad())?;
    }
    Ok(())
}

fn parse_addresses(line: &mut Line<'_>) -> Result<Addresses, Fault> {
    if line.eat("all") {
        return Ok(Addresses::All);
    }
    let word = line.take_word().ok_or(Fault::NoAddress)?;
    let (address, bits) = match word.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&word[..slash], Some(&word[slash + 1..])),
        None => (word, None),
    };
    let address = parse_address(address).ok_or_else(|| Fault::Address(lossy(address)))?;
    if let Some(bits) = bits {
        let bits = str::from_utf8(bits).ok().and_then(|bits| bits.parse().ok());
        return bits
            .and_then(|bits| Addresses::with_bits(address, bits))
            .ok_or(Fault::Bits);
    }
    let word = line.take_word().ok_or(Fault::NoMask)?;
    parse_address(word)
        .and_then(|mask| Addresses::with_mask(address, mask))
        .ok_or_else(|| Fault::Mask(lossy(word)))
}

fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let v6 = text.parse::<Ipv6Addr>().map(IpAddr::V6);
    v6.or_else(|_| text.parse::<Ipv4Addr>().map(IpAddr::V4))
        .ok()
}

fn parse_method(line: &mut Line<'_>) -> Result<Means, Fault> {
    let means = match line.token {
        Token::Word(b"trust") => Means::Exchange(Method::Trust),
        Token::Word(b"reject") => Means::Reject,
        Token::Word(b"md5") => Means::Exchange(Method::Md5),
        Token::Word(b"password") => Means::Exchange(Method::Plain),
        Token::Word(b"scram-sha-256") => Means::Exchange(Method::ScramSha256),
        Token::Word(b"peer") => Means::Peer,
        Token::Word(b"cert") => Means::Certificate,
        Token::Word(b"pam") => Means::Pam,
        // Its options have a grammar of their own.
        Token::Word(b"ldap") => return Ok(Means::Ldap(lossy(line.take_rest()).trim().into())),
        Token::Word(word) => return Err(Fault::Method(lossy(word))),
        Token::Quoted(ref name) => return Err(Fault::Method(lossy(name))),
        Token::Comma | Token::End | Token::Broken => return Err(Fault::Method(String::new())),
    };
    line.advance();
    Ok(means)
}

fn parse_map(line: &mut Line<'_>, maps: &IdentMaps) -> Result<Option<Arc<IdentMap>>, Fault> {
    let Token::Word(word) = line.token else {
        return Ok(None);
    };
    let name = word
        .strip_prefix(b"map=")
        .ok_or_else(|| Fault::Option(lossy(word)))?;
    line.advance();
    let map = maps.get(name).ok_or_else(|| Fault::NoMap(lossy(name)))?;
    Ok(Some(map.clone()))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
