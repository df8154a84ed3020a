//! Builders of what a client says. Each returns the bytes of one message, so
//! that a test can join, cut and spoil them.

/// A message of any type and body, with a true length.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a test message is small");
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// A startup-style packet: a length, a code, a body.
pub(crate) fn untyped(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).expect("a test message is small");
    [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

/// Protocol 3.0.
pub(crate) const VERSION_3: u32 = 3 << 16;

pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_version(VERSION_3, parameters)
}

pub(crate) fn startup_version(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> = parameters
        .iter()
        .flat_map(|(key, value)| [text(key), text(value)].concat())
        .collect();
    body.push(0);
    untyped(version, &body)
}

pub(crate) fn ssl_request() -> Vec<u8> {
    untyped(80_877_103, &[])
}

pub(crate) fn gssenc_request() -> Vec<u8> {
    untyped(80_877_104, &[])
}

pub(crate) fn cancel_request(key: &[u8]) -> Vec<u8> {
    untyped(80_877_102, key)
}

/// PasswordMessage, SASLInitialResponse and SASLResponse share a type.
pub(crate) fn password(body: &[u8]) -> Vec<u8> {
    message(b'p', body)
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

pub(crate) fn parse_typed(name: &str, sql: &str, kinds: &[u32]) -> Vec<u8> {
    let count = u16::try_from(kinds.len()).expect("few parameters");
    let kinds = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    message(
        b'P',
        &[text(name), text(sql), count.to_be_bytes().to_vec(), kinds].concat(),
    )
}

/// All parameters and results in text format.
pub(crate) fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [text(portal), text(statement), vec![0, 0]].concat();
    body.extend(
        u16::try_from(values.len())
            .expect("few values")
            .to_be_bytes(),
    );
    for value in values {
        body.extend(
            u32::try_from(value.len())
                .expect("a test value is small")
                .to_be_bytes(),
        );
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub(crate) fn describe_statement(name: &str) -> Vec<u8> {
    message(b'D', &[vec![b'S'], text(name)].concat())
}

pub(crate) fn describe_portal(name: &str) -> Vec<u8> {
    message(b'D', &[vec![b'P'], text(name)].concat())
}

pub(crate) fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[vec![b'S'], text(name)].concat())
}

pub(crate) fn close_portal(name: &str) -> Vec<u8> {
    message(b'C', &[vec![b'P'], text(name)].concat())
}

/// `rows` 0 is all of them.
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[text(portal), rows.to_be_bytes().to_vec()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub(crate) fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub(crate) fn copy_data(data: &str) -> Vec<u8> {
    message(b'd', data.as_bytes())
}

pub(crate) fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &text(reason))
}

/// Calls the function of this object id, arguments and result in text format.
pub(crate) fn function_call(function: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = [function.to_be_bytes().to_vec(), vec![0, 0]].concat();
    body.extend(
        u16::try_from(arguments.len())
            .expect("few arguments")
            .to_be_bytes(),
    );
    for argument in arguments {
        body.extend(
            u32::try_from(argument.len())
                .expect("a test value is small")
                .to_be_bytes(),
        );
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

/// Parse, Bind, Describe, Execute and Sync of one unnamed statement.
pub(crate) fn extended(sql: &str, values: &[&str]) -> Vec<u8> {
    [
        parse("", sql),
        bind("", "", values),
        describe_portal(""),
        execute("", 0),
        sync(),
    ]
    .concat()
}

/// Bind and Execute of a prepared statement, without Sync.
pub(crate) fn run_prepared(name: &str, values: &[&str]) -> Vec<u8> {
    [bind("", name, values), execute("", 0)].concat()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
