#include "cli/client.h"
#include "cli/commands.h"
#include "cli/table.h"

namespace tessera::cli {
namespace {

namespace json = boost::json;

std::string ReservationTable(const json::array& reservations) {
  Table table({"RESERVATION", "STATE", "SKU", ">UNITS", ">USED", ">LENT", ">FREE", ">MISSING",
               "START", "END", "TENANT", "WHY MISSING"});
  for (const json::value& one : reservations) {
    table.Add({Text(one, "id"), Text(one, "state"), Text(one, "sku"), Text(one, "units"),
               Text(one, "used"), Text(one, "lent"), Text(one, "free"), Text(one, "missing"),
               Text(one, "start"), Text(one, "end"), Text(one, "tenant"),
               Text(one, "missing_for")});
  }
  return table.ToString();
}

}  // namespace

int CreateReservation(const Context& context, const ReservationOptions& options) {
  json::object body{{"tenant", options.tenant}, {"sku", options.sku}, {"units", options.units}};
  if (options.open) body["open"] = true;
  if (options.lend) body["lend"] = true;
  if (!options.start.empty()) body["start"] = options.start;
  if (!options.end.empty()) body["end"] = options.end;
  return Finish(context, Call(context, "POST", "/v1/reservations", body),
                [](const json::value& made) { return ReservationTable({made}); });
}

int Reservations(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/reservations"), [](const json::value& reply) {
    return ReservationTable(Items(reply, "reservations"));
  });
}

std::string ReservationsText(const std::string& answer) {
  return ReservationTable(Items(json::parse(answer), "reservations"));
}

int DeleteReservation(const Context& context, const std::string& id) {
  const auto checked = CheckedId(id, "reservation");
  if (!checked) return Report(context, checked.error());
  return Finish(context, Call(context, "DELETE", "/v1/reservations/" + *checked),
                [](const json::value& reply) { return Text(reply, "id") + " deleted\n"; });
}

}  // namespace tessera::cli
