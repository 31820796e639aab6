// Boost.JSON is not packaged as a library for 1.81, so its source is compiled here, once for the
// whole house. Other .cc files include its headers and link tessera_http.
#include <boost/json/src.hpp>
