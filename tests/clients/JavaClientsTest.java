// The JDK's own HTTP client, which asks for HTTP/2 with each request: whole answers and streams, by OpenAI's and Ollama's interfaces. And langchain4j over it.
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.openai.OpenAiChatModel;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

public class JavaClientsTest {
  static final HttpClient client = HttpClient.newHttpClient();
  static final String url = System.getenv("PERMLLM_URL");

  static HttpRequest post(String path, String body) {
    return HttpRequest.newBuilder(URI.create(url + path)).header("Content-Type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString(body)).build();
  }

  static void expect(boolean holds, Object seen) {
    if (!holds) throw new AssertionError(String.valueOf(seen));
  }

  static void langchain4j() throws Exception {
    String whole = OpenAiChatModel.builder().baseUrl(url + "/v1").apiKey("none").modelName("permllm").maxTokens(6).build().chat("What is 17 plus 25?");
    CompletableFuture<String> streamed = new CompletableFuture<>();
    OpenAiStreamingChatModel.builder().baseUrl(url + "/v1").apiKey("none").modelName("permllm").maxTokens(6).build().chat("What is 17 plus 25?", new StreamingChatResponseHandler() {
      private final StringBuilder text = new StringBuilder();
      @Override public void onPartialResponse(String piece) { text.append(piece); }
      @Override public void onCompleteResponse(ChatResponse response) { streamed.complete(text.toString()); }
      @Override public void onError(Throwable error) { streamed.completeExceptionally(error); }
    });
    expect(!whole.isEmpty() && whole.equals(streamed.get(60, TimeUnit.SECONDS)), whole);
  }

  public static void main(String[] arguments) throws Exception {
    langchain4j();
    String question = "\"messages\": [{\"role\": \"user\", \"content\": \"What is 17 plus 25?\"}]";
    HttpResponse<String> whole = client.send(post("/v1/chat/completions", "{" + question + ", \"max_tokens\": 4}"), HttpResponse.BodyHandlers.ofString());
    expect(whole.statusCode() == 200 && whole.version() == HttpClient.Version.HTTP_1_1 && whole.body().contains("\"chat.completion\""), whole.body());
    HttpResponse<java.util.stream.Stream<String>> stream = client.send(
        post("/v1/chat/completions", "{" + question + ", \"max_tokens\": 4, \"stream\": true}"), HttpResponse.BodyHandlers.ofLines());
    List<String> events = stream.body().filter(line -> line.startsWith("data: ")).collect(Collectors.toList());
    expect(events.size() > 3 && events.get(events.size() - 1).equals("data: [DONE]"), events);
    HttpResponse<java.util.stream.Stream<String>> lines = client.send(
        post("/api/chat", "{\"model\": \"permllm\", " + question + ", \"options\": {\"num_predict\": 4}}"), HttpResponse.BodyHandlers.ofLines());
    List<String> parts = lines.body().collect(Collectors.toList());
    expect(parts.size() > 1 && parts.get(parts.size() - 1).contains("\"done\":true"), parts);
    HttpResponse<String> models = client.send(HttpRequest.newBuilder(URI.create(url + "/v1/models")).build(), HttpResponse.BodyHandlers.ofString());
    expect(models.statusCode() == 200 && models.body().contains("smollm2"), models.body());
    HttpResponse<String> refused = client.send(post("/v1/chat/completions", "{}"), HttpResponse.BodyHandlers.ofString());
    expect(refused.statusCode() == 400, refused.body());
    System.out.println("the JDK's HTTP client, and langchain4j: 7 passed");
  }
}
