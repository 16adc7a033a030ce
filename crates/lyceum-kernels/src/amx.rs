//! Products in bf16 by AMX: blocks of 32 rows and 32 columns, 32 inner values at a time.
//!
//! A block's sums stay in four tiles of 16 rows of 16 f32 while its rows of x and its panel pass
//! through four others; a panel's words lie as a tile wants them. An element's sums over each 32
//! inner values are added one after another, whatever lies beside it.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use crate::aligned::Aligned;
use crate::gathered::Gathered;
use crate::product::{Interval, Job, Product};
use crate::tile::{At, Steps, Target, finish, load, store};
use crate::vector::{Vector, Widest, round_pairs};

/// Rows of a tile, and 32-bit words of each.
const SIDE: usize = 16;
/// Rows and columns of a block; a panel has as many columns.
const BLOCK: usize = 2 * SIDE;
/// Pairs of inner values until the next panel's turn: so much of a panel, 24 KiB, stays in the
/// first cache.
const DEPTH: usize = 12 * SIDE;

/// Returns `true` if the CPU has AMX for bf16 and the system lets this process use it.
pub(crate) fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let (bf16, tiles) = (1 << 22, 1 << 24);
        let leaves = __cpuid(0).eax;
        leaves >= 7 && __cpuid_count(7, 0).edx & (bf16 | tiles) == bf16 | tiles && asked()
    })
}

/// Asks the system for room for the tiles when threads are switched.
#[cfg(target_os = "linux")]
fn asked() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call only sets a permission of this process; what it cannot do, it refuses.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn asked() -> bool {
    false
}

/// The layout of the eight tiles, in force until dropped.
struct Tiles;

impl Tiles {
    /// # Safety
    /// AMX must be [`allowed`].
    unsafe fn laid_out() -> Self {
        #[repr(C, align(64))]
        struct Layout([u8; 64]);
        let mut layout = Layout([0; 64]);
        layout.0[0] = 1;
        for tile in 0..8 {
            layout.0[16 + 2 * tile] = 4 * SIDE as u8;
            layout.0[48 + tile] = SIDE as u8;
        }
        // SAFETY: AMX is allowed, says the caller; the layout is one of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const layout, options(nostack)) };
        Tiles
    }

    /// Sums of zero.
    ///
    /// # Safety
    /// None but that of `self`: the tiles are laid out.
    #[inline(always)]
    unsafe fn clear(&self) {
        // SAFETY: the compiler itself uses no tiles.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            );
        }
    }

    /// Sums that stand at `from`, rows `pitch` values apart.
    ///
    /// # Safety
    /// A block of values lies there.
    #[inline(always)]
    unsafe fn fetch(&self, from: *const f32, pitch: usize) {
        // SAFETY: see above.
        unsafe {
            asm!(
                "tileloadd tmm0, [{above} + {pitch}]", "tileloadd tmm1, [{above} + {pitch} + 64]",
                "tileloadd tmm2, [{below} + {pitch}]", "tileloadd tmm3, [{below} + {pitch} + 64]",
                above = in(reg) from, below = in(reg) from.wrapping_add(SIDE * pitch),
                pitch = in(reg) 4 * pitch, options(nostack, readonly)
            );
        }
    }

    /// The opposite of [`Tiles::fetch`].
    ///
    /// # Safety
    /// There is room for a block.
    #[inline(always)]
    unsafe fn keep(&self, to: *mut f32, pitch: usize) {
        // SAFETY: see above.
        unsafe {
            asm!(
                "tilestored [{above} + {pitch}], tmm0", "tilestored [{above} + {pitch} + 64], tmm1",
                "tilestored [{below} + {pitch}], tmm2", "tilestored [{below} + {pitch} + 64], tmm3",
                above = in(reg) to, below = in(reg) to.wrapping_add(SIDE * pitch),
                pitch = in(reg) 4 * pitch, options(nostack)
            );
        }
    }

    /// Adds `count` times 32 inner values: from `x`, rows `pitch` words apart, and from `panel`.
    ///
    /// # Safety
    /// `x` holds the words of a block of rows, `panel` those of its columns.
    #[inline(always)]
    unsafe fn add(&self, x: *const u32, pitch: usize, panel: *const u32, count: usize) {
        if count == 0 {
            return;
        }
        // SAFETY: see above.
        unsafe {
            asm!(
                "2:",
                "tileloadd tmm6, [{panel} + {width}]", "tileloadd tmm4, [{above} + {pitch}]",
                "tileloadd tmm7, [{panel} + {width} + 64]", "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{below} + {pitch}]", "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "add {above}, 64", "add {below}, 64", "add {panel}, 2048",
                "dec {count}", "jnz 2b",
                above = inout(reg) x => _, below = inout(reg) x.wrapping_add(SIDE * pitch) => _,
                panel = inout(reg) panel => _, count = inout(reg) count => _,
                pitch = in(reg) 4 * pitch, width = in(reg) 4 * BLOCK, options(nostack, readonly)
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever laid the tiles out may release them.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// The job's part of `whole`, whose panels are `words`.
///
/// # Safety
/// AMX must be [`allowed`], and the processor must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
pub(crate) unsafe fn blocks(whole: &Product<'_>, job: Job, words: &[u32]) {
    let total = whole.panels.k.div_ceil(2);
    let rows = job.rows.len();
    let widest = total.min(DEPTH).next_multiple_of(SIDE);
    let mut prepared = Aligned::zeros(rows.next_multiple_of(BLOCK) * widest);
    let mut rest = Aligned::zeros(SIDE * BLOCK);
    let mut edge = Aligned::zeros(BLOCK * BLOCK);
    // SAFETY: the caller vouches for AMX.
    let tiles = unsafe { Tiles::laid_out() };
    // One turn without steps when there is nothing to sum: the result is still written.
    for from in (0..total.max(1)).step_by(DEPTH) {
        let count = DEPTH.min(total - from);
        let steps = Steps {
            count,
            first: from == 0 && !whole.adds,
            last: from + count == total,
        };
        let pitch = count.next_multiple_of(SIDE);
        let pairs = Interval::new(from, from + count);
        prepare(whole, job.rows, pairs, pitch, &mut prepared);
        for panel in job.panels.start..job.panels.end {
            let words = &words[(panel * total + from) * BLOCK..][..count * BLOCK];
            let (full, part) = words.split_at(count / SIDE * SIDE * BLOCK);
            rest[..part.len()].copy_from_slice(part);
            rest[part.len()..].fill(0);
            for row in (0..rows).step_by(BLOCK) {
                let row_at = job.rows.start + row;
                let at = At { row: row_at, panel };
                let here = BLOCK.min(rows - row);
                let block = TileBlock { at, rows: here };
                // SAFETY: the block's rows were prepared, its columns are in `full` and `rest`;
                // its place in the result is this job's own.
                unsafe {
                    let x = prepared[row * pitch..].as_ptr();
                    begin(&tiles, &whole.target, block, steps, &mut edge);
                    tiles.add(x, pitch, full.as_ptr(), count / SIDE);
                    let x = x.wrapping_add(count / SIDE * SIDE);
                    tiles.add(x, pitch, rest.as_ptr(), usize::from(!part.is_empty()));
                    end(&tiles, &whole.target, block, steps, &mut edge);
                }
            }
        }
    }
}

/// Rounds the job's rows for `pairs` to rows of `pitch` words, and fills up what belongs to no row
/// or pair with zeros.
///
/// # Safety
/// The processor must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
fn prepare(
    whole: &Product<'_>,
    rows: Interval,
    pairs: Interval,
    pitch: usize,
    prepared: &mut [u32],
) {
    let count = pairs.len();
    let (from, to) = (2 * pairs.start, (2 * pairs.end).min(whole.panels.k));
    let mut gathered = Gathered::default();
    let size = rows.len().next_multiple_of(BLOCK) * pitch;
    let lines = prepared[..size].chunks_mut(pitch.max(1));
    for (row, line) in (rows.start..).zip(lines) {
        let (pairs, none) = line.split_at_mut(if row < rows.end { count } else { 0 });
        none.fill(0);
        if row < rows.end {
            let x = gathered.row(whole.x, row, from, to);
            // SAFETY: this function is compiled for AVX512-BF16.
            unsafe { round_pairs(x, pairs) }
        }
    }
}

/// A block of the result in the tiles: one panel of `rows` rows.
#[derive(Clone, Copy)]
struct TileBlock {
    at: At,
    rows: usize,
}

/// Returns `true` if `block` is entirely inside the result, and a pointer to its first element.
fn place(target: &Target<'_>, block: TileBlock) -> (bool, *mut f32) {
    let TileBlock { at, rows } = block;
    let inside = rows == BLOCK && (at.panel + 1) * BLOCK <= target.n;
    let offset = at.row * target.stride + at.panel * BLOCK;
    let first = target.y.0.wrapping_add(offset);
    (inside, first)
}

/// Puts what the sums of a block begin with into the tiles.
///
/// # Safety
/// The processor must have AVX-512; the rows of `block` and its panel are in the result.
#[inline(always)]
unsafe fn begin(
    tiles: &Tiles,
    target: &Target<'_>,
    block: TileBlock,
    steps: Steps,
    edge: &mut [f32],
) {
    let TileBlock { at, rows } = block;
    // SAFETY: see above.
    unsafe {
        match place(target, block) {
            _ if steps.first => tiles.clear(),
            (true, first) => tiles.fetch(first, target.stride),
            _ => {
                for (row, line) in edge.chunks_mut(BLOCK).enumerate().take(rows) {
                    let from = target.y.0.wrapping_add((at.row + row) * target.stride);
                    let held = load::<Widest>(from, at.panel * BLOCK, target.n);
                    held[0].store(line.as_mut_ptr());
                    held[1].store(line[SIDE..].as_mut_ptr());
                }
                tiles.fetch(edge.as_ptr(), BLOCK);
            }
        }
    }
}

/// Writes the sums in the tiles, with what is added to them at the end.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
unsafe fn end(
    tiles: &Tiles,
    target: &Target<'_>,
    block: TileBlock,
    steps: Steps,
    edge: &mut [f32],
) {
    let TileBlock { at, rows } = block;
    let added = target.added.bias.is_some() || target.added.rows.is_some();
    // SAFETY: see above.
    unsafe {
        if let (true, first) = place(target, block)
            && !(steps.last && added)
        {
            return tiles.keep(first, target.stride);
        }
        tiles.keep(edge.as_mut_ptr(), BLOCK);
        for (row, line) in edge.chunks(BLOCK).enumerate().take(rows) {
            let mut sum = [
                Widest::load(line.as_ptr()),
                Widest::load(line[SIDE..].as_ptr()),
            ];
            let row = at.row + row;
            if steps.last {
                sum = finish(target, sum, row * target.n, at.panel * BLOCK);
            }
            let to = target.y.0.wrapping_add(row * target.stride);
            store::<Widest>(sum, to, at.panel * BLOCK, target.n);
        }
    }
}
