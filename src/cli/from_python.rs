//! `rsmtpd check --from-python DIR`: what differs from the original in Python for whoever brings its configuration along.

use std::path::Path;

use crate::chain::configured;
use crate::config::{Agent, Configuration};

use super::{Failure, check};

/// One thing that is done otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Deviation {
    /// What the original did.
    pub original: &'static str,
    /// What happens here.
    pub here: &'static str,
    /// Why.
    pub why: &'static str,
    /// Which of its faults, as the regression tests count them, this is about; none where it was none.
    pub faults: &'static [u32],
}

/// What the original did on purpose, or without harm.
const fn deviation(original: &'static str, here: &'static str, why: &'static str) -> Deviation {
    fault(&[], original, here, why)
}

/// What was wrong with it.
const fn fault(faults: &'static [u32], original: &'static str, here: &'static str, why: &'static str) -> Deviation {
    Deviation {
        original,
        here,
        why,
        faults,
    }
}

/// All of them but those that depend on the files.
pub const DEVIATIONS: &[Deviation] = &[
    fault(
        &[1],
        "the second message of a connection failed with 451",
        "a connection carries any number of messages",
        "RFC 5321 3.3",
    ),
    fault(
        &[2],
        "dots doubled by the client stayed in the message",
        "they are taken out",
        "RFC 5321 4.5.2",
    ),
    fault(
        &[3],
        "a dot before a bare line feed or white space ended a message",
        "only <CR><LF>.<CR><LF> does",
        "one message could be smuggled inside another",
    ),
    fault(
        &[4],
        "RCPT and DATA were answered without or after a refused MAIL, and a second MAIL replaced the first",
        "503 out of order",
        "RFC 5321 3.3, 4.1.4",
    ),
    fault(
        &[5],
        "one recipient accepted for research made delivery fail for all, in random order",
        "soft recipients go to the quarantine, in the order of RCPT; those that fail alone are tried again",
        "a client that tries again would deliver twice",
    ),
    fault(
        &[6],
        "RSET, NOOP and HELP were unknown; VRFY failed for the wrong class in the shipped chain",
        "they work in the shipped chain as it is",
        "RFC 5321 4.5.1",
    ),
    fault(
        &[7],
        "domains were compared with regard to case; <postmaster>, address literals, source routes and parameters behind \
         an address without brackets were refused",
        "they are understood",
        "RFC 5321 2.4, 4.1.1.3, 4.1.2, 4.5.1",
    ),
    fault(
        &[8],
        "after STARTTLS it was offered again, the session was not forgotten, and a second one crashed the thread",
        "everything before TLS is forgotten and STARTTLS not offered again",
        "RFC 3207 4.2",
    ),
    fault(
        &[9],
        "a certificate was chosen by any part of the name asked for",
        "by whole labels, from the end",
        "evil.example.net.attacker.org is not ours",
    ),
    fault(
        &[10],
        "the transaction log lacked each line with 8-bit octets, and had the templates of replies",
        "it has every octet, and the text that was sent",
        "a log must be what happened",
    ),
    fault(
        &[11],
        "dovecot-lda was told the mailbox alone; Received had no by and no date; Return-Path stood twice",
        "it is told sender and original recipient as well; one Received, one Return-Path",
        "RFC 5321 4.4",
    ),
    fault(
        &[12],
        "a SIZE above the limit was accepted at MAIL",
        "552 5.3.4",
        "RFC 1870 6.1",
    ),
    fault(
        &[13],
        "nothing timed out, and nothing was limited",
        "time-outs, and limits for errors, recipients, connections and sources",
        "one idle client held one thread for ever; RFC 5321 4.5.3",
    ),
    fault(
        &[14],
        "a line of more than 32 KiB left the connection open for ever",
        "500 for a command, a note for a line of text",
        "RFC 5321 4.5.3.1",
    ),
    fault(
        &[15],
        "a reply could be cut off",
        "it is written whole",
        "send() does not promise to write all",
    ),
    fault(
        &[16],
        "only IPv4 was served",
        "localhost and * mean both families",
        "clients have IPv6",
    ),
    fault(
        &[17],
        "EHLO waited for name servers",
        "a process of its own asks, for as long as the entry's timeout; look_up: no in hello.yaml asks nobody",
        "a slow name server stopped the session",
    ),
    fault(
        &[18],
        "supplementary groups of root stayed, and keys were read by the process that served clients",
        "no process with user id 0 is left, and keys stay in a process of their own",
        "least rights",
    ),
    fault(
        &[19],
        "the server name that TLS chose was shared by all connections",
        "it belongs to its connection",
        "a race",
    ),
    fault(
        &[20],
        "a handler that failed had no opinion",
        "451, whatever later handlers say, unless on_error says otherwise",
        "a check that fails must not let mail in",
    ),
    fault(
        &[21],
        "what went wrong was hidden by faults in the messages of the log",
        "an error names handler, file, line and reason",
        "somebody has to find it",
    ),
    fault(
        &[22],
        "EHLO and HELO without a name were accepted, and EHLO did not end a transaction",
        "501; it does",
        "RFC 5321 4.1.1.1, 4.1.4",
    ),
    fault(
        &[23],
        "552 closed the connection",
        "the client may go on",
        "RFC 5321 3.8",
    ),
    fault(
        &[24],
        "whether the client had sent ahead was known for the first command only",
        "for every one, from the socket as well as what was read",
        "the signal is what the research is about",
    ),
    fault(
        &[25],
        "a proxy passed on extensions that it could not carry, and took long replies for short ones",
        "EHLO names what is carried",
        "RFC 5321 4.1.1.1",
    ),
    fault(
        &[26],
        "codes of replies were numbers or text, and replies of several lines mixed up",
        "a reply is one value, with an enhanced status code where RFC 2034 wants one",
        "RFC 5321 4.2.1",
    ),
    fault(
        &[27],
        "messages lay in /var/tmp under names that could be guessed, for all to read",
        "below the state directory, mode 0600, nameless until they are whole; copies in its directory copies",
        "anybody on the machine could read or replace them",
    ),
    fault(
        &[28],
        "an external filter was told one recipient, by chance",
        "it is not yet available",
        "it comes with handlers outside of this program",
    ),
    fault(
        &[29],
        "SPF softfail and permerror were refused",
        "the check is not yet available, and has no opinion",
        "RFC 7208 8.5 does not refuse for a softfail alone",
    ),
    fault(
        &[30],
        "three words anywhere, header and web addresses included, made a notification",
        "words of the subject and the text, each once, or the form of RFC 3464; what was found is evidence",
        "phishing passed by accident",
    ),
    deviation(
        "the command line's default port always replaced that of the file",
        "what is given on the command line counts, nothing else does",
        "port in rsmtpd.yaml had no effect",
    ),
    deviation(
        "unknown arguments and keys were passed over",
        "they are errors, with file, line and column",
        "a mistyped key did nothing, silently",
    ),
    deviation(
        "a missing key fell back to another default than the shipped file had, or failed",
        "each key has one default, which the shipped files show",
        "files can be short",
    ),
    deviation(
        "~/.rsmtpd was never found, and a directory named by -c that did not exist was passed over",
        "it is; that is an error",
        "another configuration than the one meant would be served",
    ),
    deviation(
        "log_path and background were accepted and did nothing",
        "they work",
        "they are documented",
    ),
    deviation(
        "transaction logs went on in one file for a whole disk, by the process that served clients",
        "by the logger, bounded, in a directory that exists or can be made by it",
        "whoever serves clients writes no files",
    ),
    deviation(
        "MAIL without FROM: and RCPT without TO: were answered 504",
        "501",
        "RFC 5321 4.2.2: 504 is about parameters that are not served",
    ),
    deviation(
        "STARTTLS without a certificate, and commands of RFC 5321 and its extensions that are not served, were answered \
         500",
        "502; 500 is for commands that nobody knows",
        "RFC 5321 4.2.4",
    ),
    deviation(
        "EHLO named its extensions in another order each time, and BDAT was unknown",
        "in one order, CHUNKING and ENHANCEDSTATUSCODES among them",
        "RFC 3030, RFC 2034; an order by chance means nothing",
    ),
    deviation(
        "bare carriage returns and line feeds in a text went on as they came, to delivery and to the server behind the proxy",
        "as line_endings says: a line feed becomes <CR><LF>, a carriage return a space, or the message is refused; logs \
         have them as they came",
        "RFC 5321 2.3.8; programs that read lines otherwise would see another message",
    ),
    deviation(
        "a proxy that lost the server behind it answered 500 and closed",
        "421",
        "RFC 5321 3.8: the client is to try again",
    ),
    deviation(
        "a proxy passed on commands that it did not know, ETRN and XFORWARD included",
        "they are answered here: 502 where the command is known, else 500",
        "what is not understood may change what the two sides mean by what follows",
    ),
    deviation(
        "a proxy answered EHLO inside TLS with the reply that it had kept from before",
        "the server behind is asked anew",
        "RFC 3207 4.2; it may answer otherwise",
    ),
    deviation(
        "a proxy said nothing of its own to the server behind it, which saw every client as the proxy",
        "it says XCLIENT where that is offered (xclient: no in proxy.yaml), EHLO of its own where the client's did not tell, or \
         a PROXY header (send_proxy)",
        "that server has to know whom it serves",
    ),
    deviation(
        "no configuration directory, no chain file, or a file that was no YAML, meant defaults",
        "each is an error, with its file and, if it has one, line",
        "a mistake would go by unseen, and every message be refused",
    ),
    deviation(
        "maximum_message_size_in_mb of 0 or less meant 8 MiB, and no number was too large",
        "1 to 1024; anything else is an error",
        "what is written counts, or is told to be wrong",
    ),
    deviation(
        "of a key that stood twice the last one counted",
        "it is an error",
        "YAML 1.1 wants each key once, and one of the two was not meant",
    ),
    deviation(
        "a chain could name any class of any Python module",
        "the handlers of this program; any other is an error",
        "Python cannot be loaded into it",
    ),
];

/// Prints what is wrong with the directory, or else what is done otherwise: first what its files bring about, then in
/// general.
pub fn run(directory: &Path) -> Result<(), Failure> {
    let every = Configuration::chain_names(directory);
    let loaded = configured::load(directory, &every);
    let (configuration, _) = loaded.map_err(|found| check::faults(Some(directory), &found))?;
    let mut text = String::from("of these files:\n");
    let notes = configuration.notes.iter().map(ToString::to_string);
    let mut lines: Vec<String> = notes.chain(configuration.unread(directory, &[])).collect();
    lines.extend(of_files(&configuration));
    if lines.is_empty() {
        lines.push("nothing".to_owned());
    }
    for line in lines {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str("in general:\n");
    for (number, one) in DEVIATIONS.iter().enumerate() {
        let number = number.saturating_add(1);
        text.push_str(&format!(
            "  {number}. original: {}\n     here: {}\n     why: {}\n",
            one.original, one.here, one.why
        ));
    }
    super::print(text.as_bytes())
}

/// What settings that are there mean here.
fn of_files(configuration: &Configuration) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, chain) in configuration.chains.iter().filter(|(_, chain)| chain.original) {
        let file = format!("command_handler_{name}.yaml");
        lines.push(format!(
            "{file}: in the original's form, so the last reply counts, but for failures"
        ));
        if chain.uses("data_file") {
            lines.push(format!(
                "{file}: data_file does nothing, delivery keeps the message; mail_spool_dir is not used"
            ));
        }
        if chain.uses("post_data_reset") {
            lines.push(format!(
                "{file}: post_data_reset keeps a copy, if keep_data_file says so, in the directory copies of the state \
                 directory"
            ));
        }
        if chain.uses("verify") {
            lines.push(format!("{file}: VRFY works, whatever its class is called"));
        }
    }
    if configuration.delivery.agent == Agent::DovecotLda && configuration.delivery.dovecot_lda.userdb {
        lines.push(format!(
            "dovecot_delivery.yaml: {} runs as user {} (user in delivery.yaml), with -d as before",
            configuration.delivery.dovecot_lda.path.display(),
            configuration.delivery.user
        ));
    }
    if configuration.daemon.port == 8025 {
        lines.push("rsmtpd.yaml: port may be 25 as well, bound before root is given up".to_owned());
    }
    lines
}
