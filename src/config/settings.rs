//! What a setting is. Each section's settings are one table, from which its
//! struct, defaults, reader, `SHOW CONFIG`, `SET` and documentation are made.

use super::kind::Kind;
use super::value::{Value, ValueError};

/// One setting of a section that is held in an `S`.
#[derive(Debug)]
pub struct Setting<S: 'static> {
    /// Its name in the files and on the console.
    pub name: &'static str,
    /// What its text looks like.
    pub kind: Kind,
    /// Text of its default; none for null.
    pub default: Option<&'static str>,
    /// Whether a reload or `SET` changes it, or only a start does.
    pub reloadable: bool,
    /// Where it comes from.
    pub since: Since,
    /// What it means, in one line of Markdown.
    pub doc: &'static str,
    /// The value as `SHOW CONFIG` shows it; none for null. `set` reads it back.
    pub get: fn(&S) -> Option<String>,
    /// Reads a value from PgBouncer's text for it.
    pub set: fn(&mut S, &str) -> Result<(), ValueError>,
    /// Takes the value over from another section.
    pub copy: fn(&mut S, &S),
}

/// A section whose settings are a table.
pub trait Section: Sized + 'static {
    /// Every setting, in the order it is listed in.
    const SETTINGS: &'static [Setting<Self>];

    /// The row of that name.
    fn setting(name: &str) -> Option<&'static Setting<Self>> {
        Self::SETTINGS.iter().find(|setting| setting.name == name)
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// PgBouncer 1.25.2.
    Pgbouncer,
    /// PgBouncer's development branch after 1.25.2.
    Development,
    /// Not in PgBouncer.
    Pgweir,
}

/// The value a default's text stands for; the type's own for null.
pub(super) fn default_value<T: Value + Default>(text: Option<&str>) -> T {
    text.map_or_else(T::default, |text| {
        T::parse(text).expect("a default in the table parses")
    })
}

/// For overrides in which zero means "the global value".
pub(super) fn zero_inherits<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// Makes the text of a default from the table's word for it.
macro_rules! default_text {
    (null) => {
        None
    };
    ($text:literal) => {
        Some($text)
    };
}

/// Whether a change takes effect on a reload, from the table's word for it.
macro_rules! reloadable {
    (reload) => {
        true
    };
    (start) => {
        false
    };
}

/// Makes a section's struct, its defaults and its table.
///
/// A row is `name: Type = default, kind, reload or start, since;` and may end
/// in `, function` for what is done to a value after it was read. What the
/// struct holds besides its settings stands in `also`.
macro_rules! section {
    (
        $(#[$about:meta])*
        $section:ident {$(
            #[doc = $doc:literal]
            $name:ident: $type:ty = $default:tt, $kind:expr, $level:ident, $since:ident
                $(, $adjust:path)?;
        )+}
        $(also {$(
            #[doc = $other_doc:literal]
            $other:ident: $other_type:ty;
        )+})?
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $section {
            $(#[doc = $doc] pub $name: $type,)+
            $($(#[doc = $other_doc] pub $other: $other_type,)+)?
        }

        impl Default for $section {
            fn default() -> Self {
                use $crate::config::settings::default_value;
                Self {
                    $($name: default_value::<$type>(default_text!($default)),)+
                    $($($other: Default::default(),)+)?
                }
            }
        }

        impl $crate::config::Section for $section {
            const SETTINGS: &'static [$crate::config::Setting<Self>] = &[$(
                $crate::config::Setting {
                    name: stringify!($name),
                    kind: $kind,
                    default: default_text!($default),
                    reloadable: reloadable!($level),
                    since: $crate::config::Since::$since,
                    doc: $doc.trim_ascii(),
                    get: |section| $crate::config::Value::show(&section.$name),
                    set: |section, text| {
                        let value = <$type as $crate::config::Value>::parse($kind.accept(text)?)?;
                        $(let value = $adjust(value);)?
                        section.$name = value;
                        Ok(())
                    },
                    copy: |section, other| section.$name.clone_from(&other.$name),
                },
            )+];
        }
    };
}

pub(super) use {default_text, reloadable, section};
