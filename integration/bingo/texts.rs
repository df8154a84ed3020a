//! What people read: the banner, the code blocks, the page at `/`.

/// Printed on stderr at the start of every command, so that nobody takes this
/// program for the original.
pub(crate) const BANNER: &str = "bingo stand-in: a test fixture of pgweir that imitates the course application; not the original";

/// Printed by `version`.
pub(crate) const VERSION: &str = "20231121T1537";

/// Printed when there is no command.
pub(crate) const HELLO: &str = "Hello world";

/// Printed by the commands that use the database, for the default user.
pub(crate) const DEFAULT_USER_WARNING: &str = "\
Attention!!! You are using a default username. Use your own.
Such a solution will not pass verification. It will be your own fault.
";

/// Printed when the server listens.
pub(crate) const LAUNCHED: CodeBlock = CodeBlock {
    sentences: [
        "Well done, the server is up.",
        "It answers on its port from now on.",
        "Keep the code below, it will be asked for.",
    ],
    code: "yoohoo_server_launched",
};

/// Printed when the start-up request failed at once instead of hanging.
pub(crate) const FAST_START: CodeBlock = CodeBlock {
    sentences: [
        "Well done, the start is no longer slow.",
        "The call that nobody answers fails at once now.",
        "Keep the code below, it will be asked for.",
    ],
    code: "google_dns_is_not_http",
};

/// Answered at `/`: 336 bytes.
pub(crate) const INDEX: &str = "\
Well done, you have found the front page of the application.
There is not much to see on it, and that is how it should be.
What is of value lives on the other paths.
Keep the code below for later.

--------------------------------------------------
code:         index_page_is_awesome
--------------------------------------------------
";

/// Three sentences and a code between two lines of dashes.
pub(crate) struct CodeBlock {
    sentences: [&'static str; 3],
    code: &'static str,
}

impl CodeBlock {
    /// The block as it is printed, with its last newline.
    pub(crate) fn text(&self) -> String {
        let dashes = "-".repeat(50);
        let [first, second, third] = self.sentences;
        format!(
            "{first}\n{second}\n{third}\n{dashes}\ncode:         {}\n{dashes}\n",
            self.code
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_page_has_the_published_length() {
        assert_eq!(INDEX.len(), 336);
        assert!(INDEX.contains("code:         index_page_is_awesome\n"));
    }

    #[test]
    fn a_block_is_six_lines() {
        let text = LAUNCHED.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[3], "-".repeat(50));
        assert_eq!(lines[4], "code:         yoohoo_server_launched");
        assert_eq!(lines[5], lines[3]);
    }
}
