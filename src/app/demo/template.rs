//! Filling in a template: `@NAME@` becomes a value.

/// The template with each `@NAME@` replaced by the value of that name.
///
/// # Panics
/// A name has no value. Templates are part of the program: a test fills each.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text.push_str(before);
        rest = match after.split_once('@') {
            Some((name, after)) if is_name(name) => {
                let value = values.iter().find(|(known, _)| *known == name);
                text.push_str(value.expect("each name in a template has a value").1);
                after
            }
            _ => {
                text.push('@');
                after
            }
        };
    }
    text + rest
}

fn is_name(word: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    !word.is_empty() && word.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_values_wherever_they_stand() {
        let values = [("PORT", "1"), ("HOST", "h")];
        assert_eq!(
            fill("@PORT@: @PORT@ of @HOST@@PORT@", &values),
            "1: 1 of h1"
        );
    }

    #[test]
    fn an_address_is_no_name() {
        let text = "a test@example.com, b @ @b@ @";
        assert_eq!(fill(text, &[]), text);
    }

    #[test]
    fn a_value_is_not_looked_at_again() {
        assert_eq!(fill("@A@", &[("A", "@B@"), ("B", "x")]), "@B@");
    }

    #[test]
    #[should_panic(expected = "each name in a template has a value")]
    fn a_name_without_a_value_is_a_mistake() {
        fill("@MORE@", &[]);
    }
}
