// What `bench --texts` asks: as much of code as of chat, and answers that take a hundred tokens and more.
#pragma once

#include <array>
#include <string_view>

namespace permllm {

constexpr std::array<std::string_view, 8> k_bench_texts{
    "Write a Python function that reads a CSV file of orders and returns the sum of the column price for each "
    "customer.",
    "Write a C++ function that merges two sorted vectors of integers into one, and explain how long it takes.",
    "This JavaScript prints undefined. Find the fault and write the whole function anew.\n\nfunction total(items) {\n  "
    "let sum = 0;\n"
    "  items.forEach(item => { sum += item.price * item.count; });\n}\nconsole.log(total([{price: 2, count: 3}]));",
    "Write a SQL query that lists the ten customers with the most orders in 2023, with their names and the number of "
    "orders, from the tables "
    "customers(id, name) and orders(id, customer_id, day).",
    "Explain to a ten-year-old how a rainbow comes to be.",
    "I have an interview for my first job as a nurse next week. How should I prepare?",
    "Summarise in five points what speaks for and against working from home.",
    "Write a friendly letter to my neighbours that announces a summer party in the courtyard on the first Saturday of "
    "July.",
};

}  // namespace permllm
