//! What a server says, decoded strictly: a length that does not fit, a missing
//! terminator or an unknown type is an error, never skipped.

use std::fmt;

/// One backend message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    Authentication(u32, Vec<u8>),
    BackendKeyData(Vec<u8>),
    BindComplete,
    CloseComplete,
    CommandComplete(String),
    CopyBothResponse,
    CopyData(Vec<u8>),
    CopyDone,
    CopyInResponse,
    CopyOutResponse,
    DataRow(Vec<Option<Vec<u8>>>),
    EmptyQueryResponse,
    ErrorResponse(Fields),
    FunctionCallResponse(Option<Vec<u8>>),
    NegotiateProtocolVersion(u32, Vec<String>),
    NoData,
    NoticeResponse(Fields),
    NotificationResponse(String, String),
    ParameterDescription(Vec<u32>),
    ParameterStatus(String, String),
    ParseComplete,
    PortalSuspended,
    ReadyForQuery(char),
    RowDescription(Vec<Column>),
}

/// A column of a RowDescription.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) table: u32,
    pub(crate) kind: u32,
    pub(crate) size: i16,
    pub(crate) modifier: i32,
}

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Clone, PartialEq)]
pub(crate) struct Fields(Vec<(u8, String)>);

impl Fields {
    pub(crate) fn field(&self, kind: u8) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| value.as_str())
    }

    /// All of them, in their order.
    pub(crate) fn all(&self) -> &[(u8, String)] {
        &self.0
    }

    pub(crate) fn severity(&self) -> &str {
        self.field(b'S').unwrap_or_default()
    }

    pub(crate) fn code(&self) -> &str {
        self.field(b'C').unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        self.field(b'M').unwrap_or_default()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity(), self.code(), self.text())
    }
}

impl Message {
    /// May come at any message boundary, asked for or not.
    pub(crate) fn is_asynchronous(&self) -> bool {
        matches!(
            self,
            Self::NoticeResponse(_) | Self::NotificationResponse(..) | Self::ParameterStatus(..)
        )
    }

    pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Self, String> {
        let mut body = Body(body);
        let message = Self::read(kind, &mut body)
            .map_err(|why| format!("message '{}': {why}", kind.escape_ascii()))?;
        match body.0.len() {
            0 => Ok(message),
            n => Err(format!(
                "message '{}' has {n} bytes too many",
                kind.escape_ascii()
            )),
        }
    }

    fn read(kind: u8, body: &mut Body<'_>) -> Result<Self, String> {
        Ok(match kind {
            b'R' => Self::Authentication(body.u32()?, body.rest().to_vec()),
            b'K' => Self::BackendKeyData(body.rest().to_vec()),
            b'1' => Self::ParseComplete,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'C' => Self::CommandComplete(body.text()?),
            b'd' => Self::CopyData(body.rest().to_vec()),
            b'c' => Self::CopyDone,
            b'G' => body.copy_formats().map(|()| Self::CopyInResponse)?,
            b'H' => body.copy_formats().map(|()| Self::CopyOutResponse)?,
            b'W' => body.copy_formats().map(|()| Self::CopyBothResponse)?,
            b'D' => {
                let columns = body.u16()?;
                Self::DataRow(
                    (0..columns)
                        .map(|_| body.value())
                        .collect::<Result<_, _>>()?,
                )
            }
            b'I' => Self::EmptyQueryResponse,
            b'E' => Self::ErrorResponse(body.fields()?),
            b'N' => Self::NoticeResponse(body.fields()?),
            b'V' => Self::FunctionCallResponse(body.value()?),
            b'v' => {
                let newest = body.u32()?;
                let options = body.u32()?;
                let names = (0..options)
                    .map(|_| body.text())
                    .collect::<Result<_, _>>()?;
                Self::NegotiateProtocolVersion(newest, names)
            }
            b'n' => Self::NoData,
            b'A' => {
                body.u32()?;
                Self::NotificationResponse(body.text()?, body.text()?)
            }
            b't' => {
                let parameters = body.u16()?;
                let kinds = (0..parameters)
                    .map(|_| body.u32())
                    .collect::<Result<_, _>>()?;
                Self::ParameterDescription(kinds)
            }
            b'S' => Self::ParameterStatus(body.text()?, body.text()?),
            b's' => Self::PortalSuspended,
            b'Z' => match body.u8()? {
                status @ (b'I' | b'T' | b'E') => Self::ReadyForQuery(char::from(status)),
                other => return Err(format!("transaction status {other}")),
            },
            b'T' => {
                let columns = body.u16()?;
                Self::RowDescription(
                    (0..columns)
                        .map(|_| body.column())
                        .collect::<Result<_, _>>()?,
                )
            }
            _ => return Err(format!("unknown type {kind:#04x}")),
        })
    }
}

/// What is left of a message's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| format!("{n} bytes wanted, {} left", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<String, String> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or("text without an end")?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn value(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self.u32()? {
            u32::MAX => Ok(None),
            length => Ok(Some(self.take(length as usize)?.to_vec())),
        }
    }

    fn column(&mut self) -> Result<Column, String> {
        let name = self.text()?;
        let table = self.u32()?;
        let _attribute = self.u16()?;
        let kind = self.u32()?;
        let size = i16::from_be_bytes(self.u16()?.to_be_bytes());
        let modifier = i32::from_be_bytes(self.u32()?.to_be_bytes());
        match self.u16()? {
            0 | 1 => Ok(Column {
                name,
                table,
                kind,
                size,
                modifier,
            }),
            format => Err(format!("column format {format}")),
        }
    }

    fn copy_formats(&mut self) -> Result<(), String> {
        let overall = self.u8()?;
        let columns = self.u16()?;
        for _ in 0..columns {
            self.u16()?;
        }
        if overall <= 1 {
            Ok(())
        } else {
            Err(format!("copy format {overall}"))
        }
    }

    fn fields(&mut self) -> Result<Fields, String> {
        let mut fields = Vec::new();
        loop {
            match self.u8()? {
                0 => break,
                kind => fields.push((kind, self.text()?)),
            }
        }
        for needed in *b"SCM" {
            let count = fields.iter().filter(|(kind, _)| *kind == needed).count();
            if count != 1 {
                return Err(format!(
                    "{count} fields '{}' in {fields:?}",
                    char::from(needed)
                ));
            }
        }
        Ok(Fields(fields))
    }
}
