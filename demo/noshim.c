/* A preload library that intercepts nothing. `demo.py --break shim` puts it in the place of libtessera.so, to prove that the
 * demo's witnesses notice when nobody holds the slices. */
const char tessera_no_shim[] = "this library does nothing on purpose";
