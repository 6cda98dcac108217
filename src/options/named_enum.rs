//! Options with a fixed set of names.

use crate::options::InvalidOption;

/// Defines an enum whose variants have fixed names: `name()`, `NAMES`, `FromStr` and `Display`.
///
/// ```ignore
/// named_enum! {
///     /// Documentation of the enum.
///     #[derive(Default)]
///     pub enum Codec: "codec" {
///         #[default]
///         H264 = "h264",
///     }
/// }
/// ```
///
/// The string after the enum's name is the option that a parse error names.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $name:ident: $option:literal {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// The names of all variants.
            pub const NAMES: &[&str] = &[$($text),+];

            /// The name in requests, on the command line and in keys of stored results.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::options::InvalidOption;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::options::named_enum::unknown_name($option, text, Self::NAMES)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(super) use named_enum;

/// Error for a text that is none of `names`, of which there are at least two.
pub(super) fn unknown_name(option: &'static str, text: &str, names: &[&str]) -> InvalidOption {
    let expected = match names {
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
        [] => String::new(),
    };
    InvalidOption::Value { option, value: text.to_string(), expected }
}

#[cfg(test)]
mod tests {
    named_enum! {
        #[derive(Default)]
        pub enum Colour: "colour" {
            #[default]
            Red = "red",
            Green = "green",
            Blue = "blue",
        }
    }

    #[test]
    fn every_name_is_parsed_and_printed() {
        assert_eq!(Colour::NAMES, ["red", "green", "blue"]);
        for name in Colour::NAMES {
            assert_eq!(name.parse::<Colour>().unwrap().to_string(), *name);
        }
        assert_eq!(Colour::default().name(), "red");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_valid_ones() {
        let message = "Red".parse::<Colour>().unwrap_err().to_string();
        assert!(
            message.contains("colour is Red") && message.contains("`red`, `green` or `blue`"),
            "{message}"
        );
    }
}
