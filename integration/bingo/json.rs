//! Rows of an answer as JSON, by the shape that goes with the statement.

use crate::db::{DbError, Row};
use crate::statements::Shape;

/// Appends `row` as an object.
///
/// # Errors
/// The row does not fit the shape.
pub(crate) fn write_row(out: &mut Vec<u8>, shape: &[Shape], row: &Row<'_>) -> Result<(), DbError> {
    let mut column = 0;
    write_object(out, shape, &mut |out, kind| {
        let text = row.text(column)?;
        column += 1;
        write_value(out, kind, text);
        Ok(())
    })
}

/// A column that is no group.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Number,
    Text,
    Time,
}

type Column<'a> = &'a mut dyn FnMut(&mut Vec<u8>, Kind) -> Result<(), DbError>;

fn write_object(out: &mut Vec<u8>, shape: &[Shape], column: Column<'_>) -> Result<(), DbError> {
    for (index, part) in shape.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        match part {
            Shape::Number(name) => {
                write_key(out, name);
                column(out, Kind::Number)?;
            }
            Shape::Text(name) => {
                write_key(out, name);
                column(out, Kind::Text)?;
            }
            Shape::Time(name) => {
                write_key(out, name);
                column(out, Kind::Time)?;
            }
            Shape::Object(name, inner) => {
                write_key(out, name);
                write_object(out, inner, column)?;
            }
        }
    }
    out.push(b'}');
    Ok(())
}

fn write_key(out: &mut Vec<u8>, name: &str) {
    write_string(out, name);
    out.push(b':');
}

fn write_value(out: &mut Vec<u8>, kind: Kind, text: Option<&str>) {
    match (kind, text) {
        (_, None) => out.extend_from_slice(b"null"),
        (Kind::Number, Some(text)) => out.extend_from_slice(text.as_bytes()),
        (Kind::Text, Some(text)) => write_string(out, text),
        (Kind::Time, Some(text)) => write_string(out, &(text.replacen(' ', "T", 1) + "Z")),
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statements::{CUSTOMER, SESSION};

    fn object(shape: &[Shape], columns: &[Option<&str>]) -> String {
        let mut out = Vec::new();
        let mut columns = columns.iter();
        write_object(&mut out, shape, &mut |out, kind| {
            write_value(out, kind, *columns.next().expect("valid"));
            Ok(())
        })
        .expect("valid");
        String::from_utf8(out).expect("valid")
    }

    #[test]
    fn a_customer_is_flat() {
        let columns = [
            Some("7"),
            Some("An\"n"),
            Some("B"),
            Some("1990-02-01"),
            None,
        ];
        assert_eq!(
            object(CUSTOMER, &columns),
            r#"{"id":7,"name":"An\"n","surname":"B","birthday":"1990-02-01","email":null}"#
        );
    }

    #[test]
    fn a_session_holds_its_parents() {
        let columns = [
            "1",
            "2020-01-02 03:04:05.5",
            "2",
            "n",
            "s",
            "b",
            "e",
            "3",
            "m",
            "1999",
            "90",
        ];
        assert_eq!(
            object(SESSION, &columns.map(Some)),
            concat!(
                r#"{"id":1,"start_time":"2020-01-02T03:04:05.5Z","#,
                r#""customer":{"id":2,"name":"n","surname":"s","birthday":"b","email":"e"},"#,
                r#""movie":{"id":3,"name":"m","year":1999,"duration":90}}"#
            )
        );
    }
}
