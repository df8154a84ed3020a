//! The command line, as cobra lays it out around a program without a name.

use std::fmt::Write as _;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Hello,
    PrepareDb,
    PrintCurrentConfig,
    PrintDefaultConfig,
    RunServer,
    Version,
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    Run(Action),
    /// Text for stdout, exit code 0.
    Show(String),
    /// Text for stderr, exit code 1.
    Wrong(String),
}

/// One command.
struct Command {
    name: &'static str,
    short: &'static str,
    does: Does,
}

enum Does {
    Act(Action),
    Completion,
    Help,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "completion",
        short: "Generate the autocompletion script for the specified shell",
        does: Does::Completion,
    },
    Command {
        name: "help",
        short: "Help about any command",
        does: Does::Help,
    },
    Command {
        name: "prepare_db",
        short: "prepare_db",
        does: Does::Act(Action::PrepareDb),
    },
    Command {
        name: "print_current_config",
        short: "print_current_config",
        does: Does::Act(Action::PrintCurrentConfig),
    },
    Command {
        name: "print_default_config",
        short: "print_default_config",
        does: Does::Act(Action::PrintDefaultConfig),
    },
    Command {
        name: "run_server",
        short: "run_server",
        does: Does::Act(Action::RunServer),
    },
    Command {
        name: "version",
        short: "version",
        does: Does::Act(Action::Version),
    },
];

/// The line each shell needs, `WORDS` standing for the names of the commands.
const SHELLS: &[(&str, &str)] = &[
    ("bash", "complete -W \"WORDS\" bingo"),
    ("fish", "complete -c bingo -f -a \"WORDS\""),
    (
        "powershell",
        "Register-ArgumentCompleter -Native -CommandName bingo -ScriptBlock { param($w) \"WORDS\".Split() -like \"$w*\" }",
    ),
    ("zsh", "#compdef bingo\ncompadd WORDS"),
];

/// Reads the arguments after the program's name.
pub(crate) fn parse(arguments: &[String]) -> Invocation {
    let flag = arguments.iter().find(|a| a.len() > 1 && a.starts_with('-'));
    let mut words = arguments
        .iter()
        .filter(|a| !a.starts_with('-'))
        .map(String::as_str);
    let command = match words.next() {
        None => None,
        Some(name) => match find(name) {
            Some(command) => Some(command),
            None => {
                return Invocation::Wrong(format!(
                    "Error: unknown command \"{name}\" for \"\"\nRun ' --help' for usage.\n"
                ));
            }
        },
    };
    match flag.map(String::as_str) {
        Some("-h" | "--help") => return Invocation::Show(help(command)),
        Some(flag) => {
            let what = if flag.starts_with("--") {
                format!("unknown flag: {flag}")
            } else {
                format!(
                    "unknown shorthand flag: '{}' in {flag}",
                    &flag[1..].chars().next().unwrap_or('-')
                )
            };
            return Invocation::Wrong(format!("Error: {what}\n{}\n", usage(command)));
        }
        None => {}
    }
    match command.map(|command| &command.does) {
        None => Invocation::Run(Action::Hello),
        Some(Does::Act(action)) => Invocation::Run(*action),
        Some(Does::Help) => Invocation::Show(help(words.next().and_then(find))),
        Some(Does::Completion) => Invocation::Show(completion(words.next())),
    }
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The help of a command, or of the program.
fn help(command: Option<&Command>) -> String {
    let title = command.map_or("bingo", |command| command.short);
    format!("{title}\n\n{}", usage(command))
}

/// The use-line begins with a blank where the program's name should be.
fn usage(command: Option<&Command>) -> String {
    match command {
        None => {
            let mut text =
                String::from("Usage:\n   [flags]\n   [command]\n\nAvailable Commands:\n");
            for Command { name, short, .. } in COMMANDS {
                let _ = writeln!(text, "  {name:<20} {short}");
            }
            text += "\nFlags:\n  -h, --help   help for this command\n\n";
            text + "Use \" [command] --help\" for more information about a command.\n"
        }
        Some(Command { name, .. }) => {
            format!("Usage:\n   {name} [flags]\n\nFlags:\n  -h, --help   help for {name}\n")
        }
    }
}

fn completion(shell: Option<&str>) -> String {
    let words: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
    match SHELLS.iter().find(|(name, _)| Some(*name) == shell) {
        Some((_, line)) => line.replace("WORDS", &words.join(" ")) + "\n",
        None => {
            let shells: Vec<_> = SHELLS
                .iter()
                .map(|(name, _)| format!("   completion {name}\n"))
                .collect();
            format!(
                "Generate the autocompletion script for the specified shell\n\nUsage:\n{}",
                shells.concat()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Invocation {
        parse(
            &line
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    const HELP: &str = "\
bingo

Usage:
   [flags]
   [command]

Available Commands:
  completion           Generate the autocompletion script for the specified shell
  help                 Help about any command
  prepare_db           prepare_db
  print_current_config print_current_config
  print_default_config print_default_config
  run_server           run_server
  version              version

Flags:
  -h, --help   help for this command

Use \" [command] --help\" for more information about a command.
";

    #[test]
    fn no_argument_says_hello() {
        assert_eq!(parsed(""), Invocation::Run(Action::Hello));
    }

    #[test]
    fn help_has_a_blank_for_a_name() {
        for line in ["-h", "--help", "help"] {
            assert_eq!(parsed(line), Invocation::Show(HELP.into()), "{line}");
        }
    }

    #[test]
    fn help_of_a_command_shows_its_only_flag() {
        let text = "run_server\n\nUsage:\n   run_server [flags]\n\nFlags:\n  -h, --help   help for run_server\n";
        for line in ["run_server --help", "help run_server"] {
            assert_eq!(parsed(line), Invocation::Show(text.into()), "{line}");
        }
    }

    #[test]
    fn every_command_is_found() {
        assert_eq!(parsed("prepare_db"), Invocation::Run(Action::PrepareDb));
        assert_eq!(
            parsed("print_current_config"),
            Invocation::Run(Action::PrintCurrentConfig)
        );
        assert_eq!(
            parsed("print_default_config"),
            Invocation::Run(Action::PrintDefaultConfig)
        );
        assert_eq!(parsed("run_server"), Invocation::Run(Action::RunServer));
        assert_eq!(parsed("version"), Invocation::Run(Action::Version));
    }

    #[test]
    fn there_is_no_config_flag() {
        let Invocation::Wrong(text) = parsed("run_server --config") else {
            panic!("taken")
        };
        assert!(
            text.starts_with("Error: unknown flag: --config\nUsage:\n   run_server"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_command_is_named() {
        let text = "Error: unknown command \"play\" for \"\"\nRun ' --help' for usage.\n";
        assert_eq!(parsed("play"), Invocation::Wrong(text.into()));
    }

    #[test]
    fn completion_knows_the_commands() {
        let Invocation::Show(text) = parsed("completion bash") else {
            panic!("wrong")
        };
        assert!(
            text.contains("prepare_db") && text.ends_with(" bingo\n"),
            "{text}"
        );
        assert!(matches!(parsed("completion"), Invocation::Show(_)));
    }
}
