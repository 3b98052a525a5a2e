//! Rendering drawings as PNG.
use std::sync::{Arc, LazyLock};

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb::Database},
};

/// Pixels per unit of the drawing: sharp on high-resolution screens and on paper.
const ZOOM: f32 = 2.0;

/// The font is embedded in the program: a minimal machine has none, and the picture would
/// have no text.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
});

/// Renders a drawing as a PNG of twice its size.
///
/// # Errors
/// The error message of the library, if `svg` is not valid SVG.
pub fn png(svg: &str) -> Result<Vec<u8>, String> {
    let options = Options {
        fontdb: Arc::clone(&FONTS),
        font_family: "DejaVu Sans".to_owned(),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options).map_err(|e| e.to_string())?;
    let size = tree.size();
    let pixels = |length: f32| (length * ZOOM).ceil() as u32;
    let mut picture = Pixmap::new(pixels(size.width()), pixels(size.height()))
        .ok_or_else(|| "the drawing has no size".to_owned())?;
    resvg::render(
        &tree,
        Transform::from_scale(ZOOM, ZOOM),
        &mut picture.as_mut(),
    );
    picture.encode_png().map_err(|e| e.to_string())
}
