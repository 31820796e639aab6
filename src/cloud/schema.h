// The cloud's tables as numbered migrations. An applied migration is never edited; a change is a
// new number.
#pragma once

#include <vector>

#include "store/database.h"

namespace tessera::cloud {

const std::vector<store::Migration>& Migrations();

}  // namespace tessera::cloud
