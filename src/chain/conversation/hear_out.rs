//! A text that is let come although it is refused: clients that send it whatever they are told get their answer at its end.

use super::run::Ran;
use super::{Action, Conversation, Next};
use crate::chain::decision::Stage;
use crate::chain::effect::Effect;
use crate::chain::ports::Ports;
use crate::session::{Exchange, Verdict};
use crate::smtp::reply::Reply;

impl Conversation<'_> {
    /// The refusal that is to wait for the end of the text, where one of the entries wants to hear it.
    pub(super) fn to_hear_out(
        &self,
        exchange: &Exchange,
        ran: &Ran,
        verdict: Verdict,
        reply: Option<&Reply>,
    ) -> Option<Reply> {
        let refused = matches!(verdict, Verdict::Defer | Verdict::Reject);
        let wanted = ran.effects().any(|effect| *effect == Effect::HearOut);
        let well_formed = exchange.command.parsed.is_ok();
        reply.filter(|_| refused && wanted && well_formed).cloned()
    }

    /// The end of a text that was refused before it came: whoever looks at messages has seen it, and nobody decides.
    pub(super) fn heard_out(&mut self, refusal: Reply, ports: &mut Ports<'_>) -> Action {
        let chain = self.chain;
        let links = chain.stage_links("__DATA__");
        self.run(links, Stage::EndOfData, None, None, None, ports);
        self.body_refused(Some(refusal), Next::Command, ports)
    }
}
