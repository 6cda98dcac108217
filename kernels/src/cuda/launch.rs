//! One launch of a kernel: its geometry, and its parameters in the order of the kernel's struct.

use std::fmt;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, bail};

/// What a launch can fill a field with. All fields are as large as they are aligned, so a struct of them has the
/// same layout here as in C++.
enum Field<'a> {
    Tensor(&'a Tensor),
    Null,
    Output,
    Int(usize),
    Float(f32),
    Double(f64),
}

/// Which kernel, by the parts that its name is put together from where it is declared: a launch makes no string of
/// them, only its first one and errors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file, without its `.cu`.
    pub module: &'static str,
    name: &'static str,
    size: Size,
    dtype: Option<DType>,
}

/// What a kernel was compiled for, besides its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Size {
    Any,
    UpTo(usize),
    Tile(usize, usize),
}

/// `name_f32`, `name_64_f32`, `name_64x128_f32`.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.size {
            Size::Any => {}
            Size::UpTo(size) => write!(f, "_{size}")?,
            Size::Tile(high, wide) => write!(f, "_{high}x{wide}")?,
        }
        self.dtype.map_or(Ok(()), |dtype| write!(f, "_{}", dtype.as_str()))
    }
}

/// Bytes of parameters that a kernel can have here.
const MOST_PARAMS: usize = 128;

/// A kernel's struct, with zeros after it.
#[repr(C, align(8))]
pub struct Params {
    bytes: [u8; MOST_PARAMS],
    len: usize,
}

impl Params {
    const EMPTY: Self = Self { bytes: [0; MOST_PARAMS], len: 0 };

    /// Appends a field where its alignment, which is its size, allows; false where there is no room.
    fn push<const N: usize>(&mut self, field: [u8; N]) -> bool {
        let at = self.len.next_multiple_of(N);
        let Some(to) = self.bytes.get_mut(at..at + N) else { return false };
        to.copy_from_slice(&field);
        self.len = at + N;
        true
    }

    /// The struct, which is aligned as a pointer is. [`MOST_PARAMS`] bytes can be read from its beginning on: the driver is
    /// told no length, but knows the kernel's.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.next_multiple_of(8)]
    }
}

/// A launch of a kernel.
pub struct Launch<'a> {
    pub kernel: Kernel,
    /// Blocks, x to z.
    pub grid: [usize; 3],
    /// Threads of a block, x to z.
    pub block: [usize; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    fields: Vec<Field<'a>>,
}

/// Blocks along y and z are at most this many; along x there is room for 2³¹ − 1.
const MOST_BLOCKS: usize = 65535;
/// Bytes of shared memory that a block can have on every GPU since Ampere.
const MOST_SHARED: usize = 99 << 10;
/// The largest struct has this many fields: room for them is made once.
const FIELDS: usize = 20;

impl<'a> Launch<'a> {
    /// Of the kernel `name` in the file `module`.cu.
    pub fn new(module: &'static str, name: &'static str) -> Self {
        let kernel = Kernel { module, name, size: Size::Any, dtype: None };
        Self { kernel, grid: [1; 3], block: [1; 3], shared: 0, fields: Vec::with_capacity(FIELDS) }
    }

    /// The version of the kernel for elements like those of `x`.
    pub fn of_dtype(module: &'static str, name: &'static str, x: &Tensor) -> Self {
        Self::new(module, name).dtype(x.dtype())
    }

    /// The version of the kernel for such elements.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.kernel.dtype = Some(dtype);
        self
    }

    /// The version of the kernel for at most `size`.
    pub fn up_to(mut self, size: usize) -> Self {
        self.kernel.size = Size::UpTo(size);
        self
    }

    /// The version of the kernel for tiles of `high` × `wide`.
    pub fn tile(mut self, high: usize, wide: usize) -> Self {
        self.kernel.size = Size::Tile(high, wide);
        self
    }

    pub fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    pub fn block(mut self, block: [usize; 3]) -> Self {
        self.block = block;
        self
    }

    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    /// A pointer to the elements of a contiguous tensor.
    pub fn tensor(mut self, x: &'a Tensor) -> Self {
        self.fields.push(Field::Tensor(x));
        self
    }

    /// The same, or null.
    pub fn optional(mut self, x: Option<&'a Tensor>) -> Self {
        self.fields.push(x.map_or(Field::Null, Field::Tensor));
        self
    }

    /// The pointer to the result.
    pub fn output(mut self) -> Self {
        self.fields.push(Field::Output);
        self
    }

    pub fn ints(mut self, values: &[usize]) -> Self {
        self.fields.extend(values.iter().map(|&n| Field::Int(n)));
        self
    }

    pub fn float(mut self, value: f32) -> Self {
        self.fields.push(Field::Float(value));
        self
    }

    pub fn doubles(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        self.fields.extend(values.into_iter().map(Field::Double));
        self
    }

    /// Runs the kernel.
    ///
    /// # Safety
    /// The fields must be those of the kernel's struct, and with this geometry it must write all of a tensor of
    /// `shape` and `dtype` and touch nothing beyond its tensors.
    pub unsafe fn run(self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let Self { kernel, grid: [x, y, z], block, .. } = &self;
        let blocks = i32::try_from(*x).is_ok() && *y <= MOST_BLOCKS && *z <= MOST_BLOCKS;
        if !blocks || x * y * z * block.iter().product::<usize>() == 0 {
            bail!("{kernel}: cannot launch {:?} blocks of {block:?} threads", self.grid);
        }
        if self.shared > MOST_SHARED {
            bail!("{kernel}: {} bytes of shared memory are more than a block can have", self.shared);
        }
        // SAFETY: the kernel writes all of it, the caller says.
        let out = unsafe { Tensor::empty(shape, dtype, device)? };
        out.inplace_op1(&self)?;
        Ok(out)
    }

    /// The tensors among the fields, in order.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        self.fields.iter().filter_map(|field| match field {
            Field::Tensor(x) => Some(*x),
            _ => None,
        })
    }

    /// The kernel's struct. `inputs`: where the tensors' elements are, in order; `output`: where the result's are.
    pub(super) fn params(&self, inputs: &[u64], output: u64) -> Result<Params> {
        let mut params = Params::EMPTY;
        let mut inputs = inputs.iter();
        for field in &self.fields {
            let has_room = match field {
                Field::Tensor(_) => match inputs.next() {
                    Some(address) => params.push(address.to_ne_bytes()),
                    None => bail!("{}: a tensor has no address", self.kernel),
                },
                Field::Null => params.push(0u64.to_ne_bytes()),
                Field::Output => params.push(output.to_ne_bytes()),
                Field::Int(n) => match i32::try_from(*n) {
                    Ok(n) => params.push(n.to_ne_bytes()),
                    Err(_) => bail!("{}: a size of {n} is too large for the kernel", self.kernel),
                },
                Field::Float(x) => params.push(x.to_ne_bytes()),
                Field::Double(x) => params.push(x.to_ne_bytes()),
            };
            if !has_room {
                bail!("{}: more than {MOST_PARAMS} bytes of parameters", self.kernel);
            }
        }
        Ok(params)
    }
}

impl InplaceOp1 for Launch<'_> {
    fn name(&self) -> &'static str {
        self.kernel.name
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, _: &Layout) -> Result<()> {
        super::emulator::run(self, out)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, out: &mut candle_core::CudaStorage, _: &Layout) -> Result<()> {
        super::device::run(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_as_in_a_struct_of_c() -> Result<()> {
        let x = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        let launch = Launch::new("module", "kernel").ints(&[1]).tensor(&x).output().ints(&[2]);
        let launch = launch.doubles([0.5]).float(1.0).optional(None).ints(&[3]);
        let half = 0.5f64.to_bits();
        let one = u64::from(1f32.to_bits());
        let params = launch.params(&[7], 8)?;
        let eighths = params.bytes().as_chunks::<8>().0.iter().map(|eight| u64::from_ne_bytes(*eight));
        assert_eq!(eighths.collect::<Vec<_>>(), [1, 7, 8, 2, half, one, 0, 3]);
        assert_eq!(launch.tensors().count(), 1);
        assert!(launch.params(&[], 8).is_err());
        let large = Launch::new("module", "kernel").ints(&[1 << 31]);
        assert!(large.params(&[], 8).is_err_and(|e| e.to_string().contains("too large")));
        let many = Launch::new("module", "kernel").ints(&[0; MOST_PARAMS / 4]);
        assert!(many.params(&[], 8).is_ok_and(|params| params.bytes().len() == MOST_PARAMS));
        assert!(many.ints(&[0]).params(&[], 8).is_err_and(|e| e.to_string().contains("more than 128")));
        // SAFETY: it is refused before it runs.
        let nothing = unsafe { large.grid([0, 1, 1]).run(3, DType::F32, &Device::Cpu) };
        assert!(nothing.is_err());
        Ok(())
    }

    #[test]
    fn a_kernel_is_named_as_where_it_is_declared() -> Result<()> {
        let x = Tensor::zeros(3, DType::BF16, &Device::Cpu)?;
        let name = |launch: Launch| launch.kernel.to_string();
        assert_eq!(name(Launch::new("masks", "erode")), "erode");
        assert_eq!(name(Launch::of_dtype("layout", "join", &x)), "join_bf16");
        assert_eq!(
            name(Launch::new("attention", "attention").up_to(64).dtype(DType::F32)),
            "attention_64_f32"
        );
        assert_eq!(name(Launch::of_dtype("product", "product", &x).tile(128, 64)), "product_128x64_bf16");
        Ok(())
    }
}
