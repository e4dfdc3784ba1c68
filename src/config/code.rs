//! The stable codes of diagnostics, each with the paragraph that `egret check --explain-code` prints.
//!
//! A code is never given a new meaning; a rule that goes leaves a gap. `E` codes are errors, `W` codes warnings.
//! Numbers by hundreds: 0 files, YAML, fields and settings; 1 resources.

use std::fmt;

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// The configuration is used; the operator should look.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Declares the codes: number, name and paragraph in one table.
macro_rules! codes {
    ($($number:ident $name:ident: $paragraph:literal,)*) => {
        /// What kind of thing is wrong; its text (`E011`) never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!(stringify!($number), ": ", $paragraph)] $name,)*
        }

        impl Code {
            /// All codes, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `E011`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($number),)* }
            }

            /// What it means, why it matters and what to do, in one paragraph.
            pub const fn paragraph(self) -> &'static str {
                match self { $(Self::$name => $paragraph,)* }
            }
        }
    };
}

codes! {
    // Files
    E001 InputMissing: "A file or folder that was named, with -f, -c or in the settings' `resources`, does not exist. Nothing is loaded in its place: a missing list of rules must not look like an empty one. The exit code of `check` is 66.",
    E002 InputUnreadable: "The file or folder exists but cannot be read. The message holds the system's reason, most often missing permission for the user that Egret runs as.",
    E003 InputNotAFile: "Configuration is read from regular files only. A FIFO, a socket or a device could block the reader or never end, and a loop of symbolic links leads nowhere.",
    E004 InputTooLarge: "The input is beyond a bound: a file over 64 MiB, folders more than 16 deep, or more than 100,000 files. Split the file, or name the folders one by one.",
    E005 InputNotUtf8: "Configuration files are UTF-8. The message says at which byte the text stops being that; a file in UTF-16 has to be converted.",
    // YAML
    E010 Syntax: "The text is not YAML 1.2 (or JSON, which is part of it). The place is where the parser could not go on; the cause is often a line or two above, such as a missing quote, a tab used as indentation, or a key that is not indented as its neighbours. Other documents of the same file are still read.",
    E011 DuplicateKey: "A map holds the same key twice. YAML forbids it, and parsers differ in which of the two they keep, so what one tool shows would not be what another one applies.",
    E012 TooDeep: "Lists and maps are nested more than 64 deep, aliases counted where they are used. No resource comes near this.",
    E013 AliasBudget: "Anchors and aliases of this file expand to more than 100,000 nodes. A few lines of nested aliases can stand for gigabytes, so the expansion is bounded.",
    E014 BadTag: "Tags other than those of the core schema (`!!str`, `!!int`, `!!float`, `!!bool`, `!!null`, `!!map`, `!!seq`) have no meaning here, and a core tag has to fit the node that carries it.",
    E015 KeyNotText: "The keys of a map are text. A list or map as key (`? [a, b]`) cannot be a field's name.",
    E016 BadMerge: "The merge key `<<` takes a map, or a list of maps, most often as an alias.",
    // Documents
    E020 NotAResource: "A document in a resource file has to be a map with `apiVersion` and `kind`. Settings (`egret.yaml`) are named with -c, not with -f.",
    E021 UnknownApiVersion: "The kind is one of Istio's or Kubernetes' that Egret carries out, but not in this apiVersion. Istio's networking kinds are read as networking.istio.io/v1, v1beta1 and v1alpha3.",
    E022 BadMetadata: "`metadata` needs a `name`, and name and namespace have to be what Kubernetes accepts: lower-case letters, digits, `-` and, in names, `.`.",
    // Fields
    E030 UnknownField: "No field of this name is known here. It is an error rather than ignored, because a misspelt restriction would restrict nothing. Field names are case-sensitive.",
    E031 MissingField: "A field that has to be there is absent, `null` or empty; the place is that of the map it is missing from.",
    E032 WrongType: "The value is of another type than the field: text where a list should be, a number where text should be. YAML reads plain 443, true and null as number, boolean and nothing; in quotes they are text.",
    E033 UnknownValue: "The field takes one of a few names, spelled exactly so, and this is none of them.",
    E034 OutOfRange: "The number, duration or size is outside the bounds of the field; the message names them.",
    E035 BadValue: "The text is of the right type but does not read as what the field holds: an address, a host, a duration (`10s`, `1h30m`, `250ms`), a size (`32KiB`).",
    E036 NotSupported: "The field is known but Egret does not carry it out, and without it more would be let through, or sent elsewhere, than the resource says. So the configuration is refused.",
    W001 Ignored: "The field is known but Egret does not carry it out. Without it nothing more is let through, so it is ignored.",
    W002 KindPassedOver: "Egret does not carry out this kind of resource. It is passed over, so that files written for a cluster can be loaded as they are.",
    W003 Replaced: "Two documents describe the resource of the same kind, namespace and name. As with `kubectl apply`, the later one counts and the earlier one is dropped.",
    // Settings
    E040 OpenProxy: "The listener can be reached from other machines, lets everything through (ALLOW_ANY) and asks nobody who they are: an open proxy, which strangers find within hours. Name the clients (`clients.from`), ask for a password (`clients.basic`) or a client certificate, use REGISTRY_ONLY, or say `clients: { open: true }` if it is meant to be.",
    E041 NameUsedTwice: "Names of listeners, gateways and secrets identify them in logs, metrics and references, so each is used once.",
    E042 AddressUsedTwice: "Two listeners, or a listener and the admin port, cannot be bound to the same address and port.",
    E043 Conflict: "Two settings that are both present contradict each other, or a setting stands where it has no meaning.",
    W041 FileMissing: "A file or folder that is referred to does not exist. The configuration is used all the same, and what needs the file is refused until it is there: it may be mounted later.",
    W040 NoListener: "The settings leave nothing to listen on (`listeners: []`), so no client can reach this process.",
}

impl Code {
    /// Errors are `E…`, warnings `W…`.
    pub const fn severity(self) -> Severity {
        match self.as_str().as_bytes()[0] {
            b'E' => Severity::Error,
            _ => Severity::Warning,
        }
    }

    /// Finds a code by its text, in either case.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_unique_well_formed_and_documented() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(
                matches!(text.as_bytes(), [b'E' | b'W', digits @ ..] if digits.len() == 3 && digits.is_ascii()),
                "{text}"
            );
            assert!(code.paragraph().len() > 50 && code.paragraph().ends_with('.'), "{text} is not documented");
            assert_eq!(Code::find(&text.to_lowercase()), Some(*code));
        }
        assert_eq!(Code::find("E999"), None);
    }
}
