//! A result set: typed columns, and rows in text format.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use pgwire::messages::data::{DataRow, FORMAT_CODE_TEXT, FieldDescription, RowDescription};

use crate::wire::backend;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// text
    Text,
    /// int4
    Int,
    /// int8
    BigInt,
    /// numeric
    Numeric,
    /// bytea
    Bytes,
}

impl Type {
    /// PostgreSQL's OID of it, and its length in bytes, -1 where that varies
    /// (`pg_type.oid`, `pg_type.typlen`).
    fn oid_and_len(self) -> (u32, i16) {
        match self {
            Type::Text => (25, -1),
            Type::Int => (23, 4),
            Type::BigInt => (20, 8),
            Type::Numeric => (1700, -1),
            Type::Bytes => (17, -1),
        }
    }
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
}

/// Columns in groups that are shown one after the other.
pub type Columns = &'static [&'static [Column]];

/// Several columns of one type.
pub const fn columns<const N: usize>(kind: Type, names: [&'static str; N]) -> [Column; N] {
    let mut columns = [Column { name: "", kind }; N];
    let mut index = 0;
    while index < N {
        columns[index].name = names[index];
        index += 1;
    }
    columns
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A text.
    Text(Cow<'a, str>),
    /// A number.
    Number(i64),
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Cell<'a> {
        Cell::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Cell::Text(Cow::Owned(text))
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Cell<'a> {
        value.map_or(Cell::Null, Into::into)
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl From<$type> for Cell<'_> {
            fn from(number: $type) -> Self {
                Cell::Number(number.into())
            }
        }
    )*};
}

numbers! { bool u16 u32 i32 }

/// What is more than an `i64` holds is shown as the most it holds.
impl From<u64> for Cell<'_> {
    fn from(number: u64) -> Self {
        Cell::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell<'_> {
    fn from(number: usize) -> Self {
        Cell::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Writes a result set.
#[derive(Debug)]
pub struct Rows<'o> {
    out: &'o mut BytesMut,
    columns: usize,
}

impl<'o> Rows<'o> {
    /// Begins one with its RowDescription.
    pub fn begin(out: &'o mut BytesMut, columns: Columns) -> Rows<'o> {
        let describe = |column: &Column| {
            let (oid, len) = column.kind.oid_and_len();
            FieldDescription::new(column.name.into(), 0, 0, oid, len, -1, FORMAT_CODE_TEXT)
        };
        let fields: Vec<_> = columns.iter().copied().flatten().map(describe).collect();
        let columns = fields.len();
        backend::put(out, &RowDescription::new(fields));
        Rows { out, columns }
    }

    /// Adds a row: a cell for each column.
    pub fn put(&mut self, cells: &[Cell<'_>]) {
        debug_assert_eq!(cells.len(), self.columns, "a cell for each column");
        put_row(self.out, cells);
    }
}

/// Adds a row to a result set.
pub fn put_row(out: &mut BytesMut, cells: &[Cell<'_>]) {
    let mut data = BytesMut::with_capacity(16 * cells.len());
    for cell in cells {
        match cell {
            Cell::Null => data.put_i32(-1),
            Cell::Text(text) => put_text(&mut data, text),
            Cell::Number(number) => put_text(&mut data, &number.to_string()),
        }
    }
    let count = i16::try_from(cells.len()).expect("no item has 32768 columns");
    backend::put(out, &DataRow::new(data, count));
}

fn put_text(data: &mut BytesMut, text: &str) {
    let len = i32::try_from(text.len()).expect("a console text is far below 2 GiB");
    data.put_i32(len);
    data.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = &[&columns(Type::Text, ["a"]), &columns(Type::Int, ["b", "c"])];

    #[test]
    fn columns_are_described_without_table_and_modifier() {
        let mut out = BytesMut::new();
        Rows::begin(&mut out, COLUMNS);
        let field = |name: &[u8], oid: u8, len: [u8; 2]| {
            let mut field = [name, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, oid]].concat();
            field.extend(len);
            field.extend([0xff, 0xff, 0xff, 0xff, 0, 0]);
            field
        };
        let mut expected = b"T\0\0\0\x42\0\x03".to_vec();
        expected.extend(field(b"a", 25, [0xff, 0xff]));
        expected.extend(field(b"b", 23, [0, 4]));
        expected.extend(field(b"c", 23, [0, 4]));
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn a_row_holds_text_numbers_and_null() {
        let mut out = BytesMut::new();
        let mut rows = Rows::begin(&mut out, COLUMNS);
        rows.put(&["x".into(), 12u32.into(), Cell::Null]);
        let row = b"D\0\0\0\x15\0\x03\0\0\0\x01x\0\0\0\x0212\xff\xff\xff\xff";
        assert!(out.ends_with(row), "{out:?}");
    }

    #[test]
    fn a_number_beyond_the_type_is_the_largest_of_it() {
        assert_eq!(Cell::from(u64::MAX), Cell::Number(i64::MAX));
        assert_eq!(Cell::from(true), Cell::Number(1));
        assert_eq!(Cell::from(None::<&str>), Cell::Null);
    }
}
