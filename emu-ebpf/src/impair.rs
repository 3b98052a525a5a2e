//! Impairments of a pipe or a link: loss, jitter, copies, overtaking.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{ImpairmentState, feature, stage_flag},
    model::{
        flow, jitter, loss, order,
        random::{self, Purpose},
    },
    reason::Reason,
};

use crate::{
    atomic, clock, maps,
    packet::{self, Packet},
};

/// `tc_index` of a copy that a stage made: it is not copied again.
const COPY: u32 = 0xe307;

/// Attempts at a flow's latest due time before a packet may overtake after all.
const ATTEMPTS: u32 = 4;

/// Correlated quantities, in the order of [`ImpairmentState::rho`].
#[derive(Clone, Copy)]
enum Correlated {
    Jitter = 0,
    Loss = 1,
    Duplicate = 2,
    Corrupt = 3,
    Reorder = 4,
}

/// Result of [`emu_stage`]: the packet is lost.
const LOST: u64 = 1 << 63;
/// Result of [`emu_stage`]: a second copy is to be sent.
const DUPLICATE: u64 = 1 << 62;
/// Result of [`emu_stage`]: a bit is to be changed.
const CORRUPT: u64 = 1 << 61;
/// Result of [`emu_stage`]: the stage changes latencies.
const DELAYS: u64 = 1 << 60;
const FLAGS: u64 = LOST | DUPLICATE | CORRUPT | DELAYS;
/// Result of [`emu_latency`]: the latency differs from packet to packet.
const VARIES: u64 = 1 << 63;
/// Result of [`emu_latency`]: the packet may overtake others.
const OVERTAKES: u64 = 1 << 62;

/// A packet that has come through a stage; without a number where there is none.
#[derive(Clone, Copy)]
pub struct Passage {
    stage_plus_one: u32,
    packet: u64,
}

/// One packet at a stage.
struct Passing {
    stage: *mut ImpairmentState,
    seed: u64,
    packet: u64,
}

/// The latency of one packet.
#[derive(Clone, Copy)]
pub struct Latency {
    /// Nanoseconds.
    pub ns: u64,
    /// Whether it may overtake others.
    pub overtakes: bool,
    /// Whether it differs from packet to packet.
    pub varies: bool,
}

impl Latency {
    /// The same for every packet.
    #[inline(always)]
    pub const fn fixed(ns: u64) -> Self {
        Self {
            ns,
            overtakes: false,
            varies: false,
        }
    }
}

/// Takes a packet through a stage, given by its number plus one, 0 for none: a
/// second copy is sent from here, a loss ends it.
#[inline(always)]
pub fn pass(ctx: &TcContext, stage_plus_one: u32, may_copy: bool) -> Result<Passage, Reason> {
    if maps::features() & feature::IMPAIRMENTS == 0 || stage_plus_one == 0 {
        return Ok(Passage {
            stage_plus_one: 0,
            packet: 0,
        });
    }
    let result = emu_stage(stage_plus_one, u32::from(may_copy));
    if maps::features() & feature::COPIES != 0 && result & DUPLICATE != 0 && send_copy(ctx) {
        maps::count(Reason::Duplicated);
    }
    if result & LOST != 0 {
        return Err(Reason::Loss);
    }
    Ok(Passage {
        stage_plus_one,
        packet: result,
    })
}

/// A function of its own, which the verifier checks once for all callers: the
/// packet's number at the stage, with [`FLAGS`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_stage(stage_plus_one: u32, may_copy: u32) -> u64 {
    let Some(stage) = maps::stage(stage_plus_one.wrapping_sub(1)) else {
        return 0;
    };
    // SAFETY: `stage` points to a live map value.
    let (seed, sequence) = unsafe { ((*stage).seed, &raw mut (*stage).sequence) };
    let passing = Passing {
        stage,
        seed,
        packet: atomic::fetch_add(sequence, 1) & !FLAGS,
    };
    let lost = if passing.loses() { LOST } else { 0 };
    // SAFETY: `stage` points to a live map value.
    let delays = unsafe { (*stage).jitter_ns | u64::from((*stage).reorder) };
    let delays = if delays != 0 { DELAYS } else { 0 };
    passing.packet | passing.copies(may_copy != 0) | lost | delays
}

/// Changes the bit that the stages that a packet has come through ask for.
#[inline(always)]
pub fn corrupt(ctx: &TcContext, packet: &Packet, passages: [Passage; 2]) {
    if maps::features() & feature::COPIES == 0 {
        return;
    }
    let [first, second] = passages;
    let passage = if first.packet & CORRUPT != 0 {
        first
    } else {
        second
    };
    if passage.packet & CORRUPT == 0 {
        return;
    }
    let bit = emu_bit(passage.stage_plus_one, passage.packet & !FLAGS);
    packet::corrupt(ctx, packet, ((bit >> 32) as u32, bit as u32));
    maps::count(Reason::Corrupted);
}

/// A function of its own, as [`emu_stage`]: which bit is changed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_bit(stage_plus_one: u32, packet: u64) -> u64 {
    let Some(stage) = maps::stage(stage_plus_one.wrapping_sub(1)) else {
        return 0;
    };
    // SAFETY: `stage` points to a live map value.
    let (first, second) = random::draw(unsafe { (*stage).seed }, packet, Purpose::Bit);
    u64::from(first) << 32 | u64::from(second)
}

/// The latency of a packet at a stage, or of all packets where there is none.
#[inline(always)]
pub fn latency(passage: Passage, latency_ns: u64) -> Latency {
    if maps::features() & feature::IMPAIRMENTS == 0 || passage.packet & DELAYS == 0 {
        return Latency::fixed(latency_ns);
    }
    let packet = passage.packet & !FLAGS;
    let result = emu_latency(passage.stage_plus_one, packet, latency_ns);
    Latency {
        ns: result & !(VARIES | OVERTAKES),
        overtakes: result & OVERTAKES != 0,
        varies: result & VARIES != 0,
    }
}

/// A function of its own, as [`emu_stage`]: the latency in nanoseconds, with
/// [`VARIES`] and [`OVERTAKES`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_latency(stage_plus_one: u32, packet: u64, latency_ns: u64) -> u64 {
    let Some(stage) = maps::stage(stage_plus_one.wrapping_sub(1)) else {
        return latency_ns;
    };
    let passing = Passing {
        stage,
        // SAFETY: `stage` points to a live map value.
        seed: unsafe { (*stage).seed },
        packet,
    };
    let latency = passing.latency(latency_ns);
    let flags = [(latency.varies, VARIES), (latency.overtakes, OVERTAKES)];
    flags.iter().fold(latency.ns, |bits, (set, flag)| {
        bits | if *set { *flag } else { 0 }
    })
}

/// The due time of a packet of a flow that keeps its order: not before any packet
/// in front of it.
#[inline(always)]
fn in_order(flow: u32, due_ns: u64) -> u64 {
    if maps::features() & feature::IMPAIRMENTS == 0 {
        return due_ns;
    }
    let Some(slot) = maps::latest(flow) else {
        return due_ns;
    };
    for _ in 0..ATTEMPTS {
        let before = atomic::read(slot);
        let (after, due_ns) = order::clamp_in_order(before, flow, due_ns);
        if after == before || atomic::compare_and_swap(slot, before, after) {
            return due_ns;
        }
    }
    due_ns
}

/// Releases a packet at its due time in its flow of fq: `own` if its path has the same latency
/// for every packet, the flow `to_peer` in order if the latency varies, and a flow for itself if it
/// may overtake.
#[inline(always)]
pub fn release(
    ctx: &TcContext,
    due_ns: u64,
    [access, between]: [Latency; 2],
    to_peer: impl FnOnce() -> u32,
    own: impl FnOnce() -> u32,
) {
    if access.overtakes || between.overtakes {
        clock::release_at(ctx, due_ns, flow::unique_flow(clock::random()));
    } else if access.varies || between.varies {
        let flow = to_peer();
        clock::release_at(ctx, in_order(flow, due_ns), flow);
    } else {
        clock::release_at(ctx, due_ns, own());
    }
}

impl Passing {
    #[inline(always)]
    fn draw(&self, purpose: Purpose) -> (u32, u32) {
        random::draw(self.seed, self.packet, purpose)
    }

    #[inline(always)]
    fn correlate(&self, what: Correlated, fresh: u32) -> u32 {
        // SAFETY: `stage` points to a live map value and the index is constant.
        // Another CPU's store may be lost: one step of a correlation.
        unsafe {
            let rho = (*self.stage).rho[what as usize];
            if rho == 0 {
                return fresh;
            }
            let value = random::correlated(fresh, (*self.stage).last[what as usize], rho);
            (*self.stage).last[what as usize] = value;
            value
        }
    }

    /// Whether the packet is lost here.
    #[inline(always)]
    fn loses(&self) -> bool {
        // SAFETY: `stage` points to a live map value.
        let (kind, state, p) = unsafe {
            (
                (*self.stage).loss_kind,
                (*self.stage).loss_state,
                &(*self.stage).loss,
            )
        };
        if kind == loss::NONE {
            return false;
        }
        let (first, second) = self.draw(Purpose::Loss);
        let (next, lost) = match kind {
            loss::GILBERT_ELLIOTT => loss::gilbert_elliott(state, p, first, second),
            loss::MARKOV4 => loss::markov4(state, p, first),
            _ => (
                state,
                random::happens(p[0], self.correlate(Correlated::Loss, first)),
            ),
        };
        // SAFETY: `stage` points to a live map value; two CPUs at once may lose a step of the chain.
        unsafe {
            if next != state {
                (*self.stage).loss_state = next;
            }
            if lost {
                atomic::fetch_add(&raw mut (*self.stage).losses, 1);
            }
        }
        lost
    }

    /// Whether a second copy is sent and a bit changed, as [`DUPLICATE`] and
    /// [`CORRUPT`].
    #[inline(always)]
    fn copies(&self, may_copy: bool) -> u64 {
        // SAFETY: `stage` points to a live map value.
        let (duplicate, corrupt) = unsafe { ((*self.stage).duplicate, (*self.stage).corrupt) };
        if maps::features() & feature::COPIES == 0 || duplicate | corrupt == 0 {
            return 0;
        }
        let (first, second) = self.draw(Purpose::Copy);
        let mut flags = 0;
        if duplicate != 0
            && may_copy
            && random::happens(duplicate, self.correlate(Correlated::Duplicate, first))
        {
            flags |= DUPLICATE;
            // SAFETY: `stage` points to a live map value.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).duplicates }, 1);
        }
        if corrupt != 0 && random::happens(corrupt, self.correlate(Correlated::Corrupt, second)) {
            flags |= CORRUPT;
            // SAFETY: `stage` points to a live map value.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).corruptions }, 1);
        }
        flags
    }

    #[inline(always)]
    fn latency(&self, latency_ns: u64) -> Latency {
        // SAFETY: `stage` points to a live map value.
        let (spread_ns, table, flags) = unsafe {
            (
                (*self.stage).jitter_ns,
                (*self.stage).jitter_table,
                (*self.stage).flags,
            )
        };
        if self.overtakes() {
            // SAFETY: `stage` points to a live map value.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).overtakes }, 1);
            return Latency {
                ns: 0,
                overtakes: true,
                varies: true,
            };
        }
        if spread_ns == 0 {
            return Latency::fixed(latency_ns);
        }
        let random = self.jitter();
        let offset_ns = if table == jitter::UNIFORM {
            jitter::uniform_ns(spread_ns, random)
        } else {
            jitter::table_ns(spread_ns, maps::table_entry(table, random))
        };
        Latency {
            ns: jitter::moved_ns(latency_ns, offset_ns),
            overtakes: flags & stage_flag::OVERTAKE != 0,
            varies: true,
        }
    }

    /// The random number of the packet's jitter.
    #[inline(always)]
    fn jitter(&self) -> u32 {
        let (fresh, pick) = self.draw(Purpose::Jitter);
        // SAFETY: as for `correlate`.
        unsafe {
            let rho = (*self.stage).rho[Correlated::Jitter as usize];
            if rho == 0 {
                return fresh;
            }
            let last = (*self.stage).last[Correlated::Jitter as usize];
            let value = random::repeated(fresh, pick, last, rho);
            (*self.stage).last[Correlated::Jitter as usize] = value;
            value
        }
    }

    /// Whether the packet skips the latency.
    #[inline(always)]
    fn overtakes(&self) -> bool {
        // SAFETY: `stage` points to a live map value; another CPU's store to the
        // count may be lost, which moves one overtaking packet.
        unsafe {
            let (chance, gap) = ((*self.stage).reorder, (*self.stage).reorder_gap);
            if chance == 0 {
                return false;
            }
            let delayed = (*self.stage).reorder_count;
            let random = self.draw(Purpose::Reorder).0;
            if delayed.saturating_add(1) >= gap
                && random::happens(chance, self.correlate(Correlated::Reorder, random))
            {
                (*self.stage).reorder_count = 0;
                true
            } else {
                (*self.stage).reorder_count = delayed.saturating_add(1);
                false
            }
        }
    }
}

/// Whether the packet is a stage's copy; takes the mark off.
#[inline(always)]
pub fn is_copy(ctx: &TcContext) -> bool {
    if maps::features() & feature::COPIES == 0 {
        return false;
    }
    let skb = ctx.skb.skb;
    // SAFETY: the live context; `tc_index` may be read and written.
    unsafe {
        let copy = (*skb).tc_index == COPY;
        if copy {
            (*skb).tc_index = 0;
        }
        copy
    }
}

#[inline(always)]
fn send_copy(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the live context; `ifindex` is readable, `tc_index` writable too.
    unsafe {
        let before = (*skb).tc_index;
        (*skb).tc_index = COPY;
        let sent = ctx.clone_redirect((*skb).ifindex, 0).is_ok();
        (*skb).tc_index = before;
        sent
    }
}
